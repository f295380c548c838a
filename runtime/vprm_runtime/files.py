"""How this package reads and writes files.

Reading: regular files only, so that no path can block, drive a device or eat a pipe. Writing: whole or not at all.
"""

import os
import secrets
import stat
from io import BufferedReader
from pathlib import Path

_READ_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_CREATE_FLAGS = sum(getattr(os, name, 0) for name in ("O_WRONLY", "O_CREAT", "O_EXCL", "O_CLOEXEC", "O_BINARY"))
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """A path that leads to a directory, pipe, socket or device; `strerror` says which."""


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading (links are followed). It never waits, whatever is at the path.

    Raises NotRegularError for anything else, OSError if it cannot be opened, ValueError for a path that no file can
    have (a NUL character).
    """
    check_regular(path, os.stat(path).st_mode)  # before opening: that alone can start a device
    descriptor = os.open(path, _READ_FLAGS)
    try:
        check_regular(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: str | Path, mode: int) -> None:
    """Raise NotRegularError unless `mode` (of os.stat) is a regular file's."""
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")
        raise NotRegularError(0, kind, str(path))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: into a temporary sibling that takes its place once the disk has it.

    Raises OSError with `path` as its file name; the old file stays then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, _CREATE_FLAGS, 0o666)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
