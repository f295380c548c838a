"""Files as this package reads them: regular ones only, so that no path can block, drive a device or eat a pipe."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

_READ_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """A path that leads to a directory, pipe, socket or device; `strerror` says which."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading (links are followed). It never waits, whatever is at the path.

    Raises NotRegularError for anything else, OSError if it cannot be opened, ValueError for a path that no file can
    have (a NUL character).
    """
    _check_regular(path, os.stat(path).st_mode)  # before opening: that alone can start a device
    descriptor = os.open(path, _READ_FLAGS)
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")
        raise NotRegularError(0, kind, str(path))
