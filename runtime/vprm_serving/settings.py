"""What the operator of a server chooses. All of it is on the command line of `vprm serve`."""

from dataclasses import dataclass
from pathlib import Path

from vprm_runtime.errors import InputError

GIB = 1 << 30
CPU_BLOCK_TOKENS = 128
"""Block size on a CPU: an 8 B model runs 512 tokens in 10 s and more, and cancellation waits for the end of a block."""


@dataclass(frozen=True)
class Limits:
    """What one request and all waiting requests together may take; more is refused before it is read or decoded.

    max_queue_tokens: tokens that wait to be run, tiles weighed with the tokens that they become.
    max_body_bytes: size of one request. max_held_bytes: sizes of all requests that are being read or prepared.
    max_image_pixels, max_images, max_responses: of one request.
    tenant_share: part of the waiting tokens that one API key may have, if there are several keys.
    upload_share: part of the cache bytes that uploads may take. upload_ttl_s, session_ttl_s: seconds since last used.
    """

    max_queue_tokens: int = 131_072
    max_body_bytes: int = 64 << 20
    max_held_bytes: int = GIB
    max_image_pixels: int = 50_000_000
    max_images: int = 64
    max_responses: int = 1024
    max_sessions: int = 1024
    tenant_share: float = 0.5
    upload_share: float = 0.25
    upload_ttl_s: float = 3600.0
    session_ttl_s: float = 600.0
    body_timeout_s: float = 60.0


@dataclass(frozen=True)
class Settings:
    """A server's own settings. `devices` has one entry per engine of the process."""

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    devices: tuple[str, ...] = ("auto",)
    threads: int | None = None
    max_block_tokens: int | None = None
    image_root: Path | None = None
    api_key_file: Path | None = None
    cache_bytes: int = GIB
    drain_s: float = 30.0
    stall_s: float = 10.0
    workers: int = 1
    limits: Limits = Limits()


def read_api_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of a file, one a line, each once. Raises InputError if it has none or cannot be read."""
    if path is None:
        return ()
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): write one key a line") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give --api-key-file a file of keys") from error
    keys = tuple(dict.fromkeys(line.strip().encode() for line in text.splitlines() if line.strip()))
    if not keys:
        raise InputError(f"{path} has no key: write one a line, or leave --api-key-file out")
    return keys
