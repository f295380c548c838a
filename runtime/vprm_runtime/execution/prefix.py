"""Prefixes kept across calls: the sessions used last, by content of images and question, within a byte budget."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vprm_runtime.errors import InputError
from vprm_runtime.images.load import ImageInput, NamedImage, load_image, read_image_file
from vprm_runtime.session import Session


class PrefixCache:
    """Least recently used sessions, at most `budget_bytes` of keys and values. A budget of 0 keeps none."""

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise InputError(f"prefix_cache_bytes must not be negative, got {budget_bytes}")
        self.budget_bytes = budget_bytes
        self._sessions: OrderedDict[bytes, tuple[Session, int]] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Keys and values of all kept prefixes."""
        return sum(size for _, size in self._sessions.values())

    def get(self, key: bytes) -> Session | None:
        """The session of that key, which becomes the last one used."""
        if key not in self._sessions:
            return None
        self._sessions.move_to_end(key)
        return self._sessions[key][0]

    def put(self, key: bytes, session: Session, size_bytes: int) -> None:
        """Keep a session; older ones go until the budget holds. One above the whole budget is not kept."""
        if size_bytes > self.budget_bytes:
            return
        self._sessions[key] = (session, size_bytes)
        while self.size_bytes > self.budget_bytes:
            self._sessions.popitem(last=False)


def pinned(image: ImageInput) -> ImageInput:
    """The image with a file's bytes in place of its path, so that what is hashed is what is scored."""
    return read_image_file(image) if isinstance(image, str | Path) else image


def prefix_key(images: Sequence[ImageInput], question: str, settings: object) -> bytes:
    """A hash of the contents of pinned images (file bytes or pixels), question and settings."""
    digest = hashlib.blake2b(repr((question, settings, len(images))).encode("utf-8", "surrogatepass"))
    for image in images:
        kind, content = _content(image)
        digest.update(f"{kind}:{len(content)}:".encode())
        digest.update(content)
    return digest.digest()


def _content(image: ImageInput) -> tuple[str, bytes]:
    if isinstance(image, NamedImage | bytes):
        return "file", image if isinstance(image, bytes) else image.content
    if isinstance(image, Image.Image):
        image = load_image(image)
        return f"{image.mode}{image.size}", image.tobytes()
    if isinstance(image, np.ndarray):
        return f"{image.dtype}{image.shape}", np.ascontiguousarray(image).tobytes()
    raise InputError(f"an image is a path, bytes, a Pillow image or a uint8 array, got {type(image).__name__}")
