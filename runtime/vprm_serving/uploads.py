"""Images that were sent once and are referred to by digest. Threads may share the store."""

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from vprm_runtime.errors import InputError, quoted

SCHEME = "blake2b:"
DIGEST_BYTES = 32
"""`blake2b:` and 64 hexadecimal digits: BLAKE2b with 32 bytes of the image file's content."""


def image_digest(content: bytes) -> str:
    """The digest that an upload of these bytes has, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


@dataclass
class _Upload:
    content: bytes
    used: float


class UploadStore:
    """Uploaded files by digest, within a budget of bytes; those not used for longest go first."""

    def __init__(self, budget_bytes: int, ttl_s: float) -> None:
        self.budget_bytes, self._ttl_s = budget_bytes, ttl_s
        self._lock = threading.Lock()
        self._uploads: OrderedDict[str, _Upload] = OrderedDict()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all uploads."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._uploads)

    def put(self, digest: str, content: bytes) -> bool:
        """Keep an image; whether it is new. Raises InputError if the digest is another or it can never fit."""
        found = image_digest(content)
        if found != digest.lower():
            raise InputError(
                f"the content's digest is {found}, the address says {quoted(digest)}: use BLAKE2b with a digest of "
                f"{DIGEST_BYTES} bytes",
                code="digest_mismatch",
            )
        if len(content) > self.budget_bytes:
            raise InputError(
                f"the image has {len(content):,} bytes, uploads may take {self.budget_bytes:,} in all: send it with "
                "the request, or give the server more --cache-bytes",
                code="too_large",
            )
        with self._lock:
            known = self._uploads.get(found)
            if known is not None:
                known.used = time.monotonic()
                self._uploads.move_to_end(found)
                return False
            self._uploads[found] = _Upload(content, time.monotonic())
            self._size_bytes += len(content)
            while self._size_bytes > self.budget_bytes:
                self._forget(next(iter(self._uploads)))
            return True

    def get(self, digest: str) -> bytes:
        """The image of a digest. Raises InputError, code unknown_image, if it is not there (any more)."""
        with self._lock:
            found = self._uploads.get(digest.lower())
            if found is None:
                raise InputError(
                    f"no image with digest {quoted(digest)} is here (any more): send it with PUT /v1/images/DIGEST",
                    code="unknown_image",
                )
            found.used = time.monotonic()
            self._uploads.move_to_end(digest.lower())
            return found.content

    def expire(self) -> None:
        """Forget what was not used within the time to live."""
        with self._lock:
            oldest = time.monotonic() - self._ttl_s
            for digest in [d for d, upload in self._uploads.items() if upload.used < oldest]:
                self._forget(digest)

    def _forget(self, digest: str) -> None:
        self._size_bytes -= len(self._uploads.pop(digest).content)
