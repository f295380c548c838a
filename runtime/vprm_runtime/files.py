"""How this package reads and writes files.

Reading: regular files only, so that no path can block, drive a device or eat a pipe. Writing: whole or not at all.
"""

import errno
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from vprm_runtime.errors import InputError, quoted

_LOG = logging.getLogger(__name__)
_READ_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_CREATE_FLAGS = sum(getattr(os, name, 0) for name in ("O_WRONLY", "O_CREAT", "O_EXCL", "O_CLOEXEC", "O_BINARY"))
_MARK = ".made-by-vprm-{}"
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """A path that leads to a directory, pipe, socket or device; `strerror` says which."""

    def __str__(self) -> str:
        return f"{quoted(self.filename)} is {self.strerror}"


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


def read_small(path: str | Path, max_bytes: int = 1 << 24) -> bytes:
    """The content of a regular file of settings. Raises OSError if it cannot be read or is too large."""
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))
    return content


def check_regular(path: str | Path, mode: int) -> None:
    """Raise NotRegularError unless `mode` (of os.stat) is a regular file's."""
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")
        raise NotRegularError(0, kind, str(path))


@contextmanager
def whole_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary sibling of `target` to write into, which takes its place at the end: whole or not at all.

    What interrupted ones left beside `target` is removed first, and named in the log. Raises OSError, as does what is
    written; the sibling is removed then. With `replace`, a folder at `target` gives way.
    """
    clear_leftovers(target)
    directory = _temporary(target)
    directory.mkdir()
    lock = _locked(directory)
    try:
        yield directory
        if replace and target.exists():
            old = _temporary(target)
            target.rename(old)
            directory.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            directory.rename(target)
    finally:
        _unlock(lock)
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write, which takes its place once the disk has it: whole or not at all.

    Leftovers and errors as for `whole_folder`; the name of a file in an error is `path`.
    """
    temporary = _temporary(path)
    lock = None
    try:
        clear_leftovers(path)
        os.close(os.open(temporary, _CREATE_FLAGS, 0o666))
        lock = _locked(temporary)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        _unlock(lock)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError with `path` as its file name; the old file stays then."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def clear_leftovers(target: Path) -> list[Path]:
    """Remove what killed processes left beside `target`; what a living one still writes stays. Returns their paths."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.tmp" + re.escape(target.suffix))
    try:
        found = [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return []
    cleared = []
    for path in found:
        lock = _locked(path)
        if lock is None:
            continue
        _LOG.warning("removing %s, which an interrupted run left", path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        _unlock(lock)
        cleared.append(path)
    return cleared


def parts_folder(target: Path) -> Path:
    """Where a run that makes `target` keeps its state: TARGET.parts. Raises InputError if `target` has no name."""
    if not target.name:
        raise InputError(f"{str(target)!r} cannot be made: give the new file or folder a name of its own")
    return target.with_name(f"{target.name}.parts")


def claim_parts(work: Path, command: str) -> None:
    """Make `work`, if it is not there, the folder of a command's state.

    Raises InputError if there is something else: it is the user's, and runs remove their folder at the end.
    """
    mark = work / _MARK.format(command)
    is_new = not os.path.lexists(work) or (work.is_dir() and not work.is_symlink() and not any(work.iterdir()))
    if not is_new and not mark.is_file():
        raise InputError(
            f"{work} is there, and not from an interrupted  vprm {command}: move it away, or choose another name for "
            "what is made"
        )
    work.mkdir(parents=True, exist_ok=True)
    mark.touch()


def clear_parts(work: Path, command: str) -> None:
    """Remove a folder that `claim_parts` made, its mark last. Others stay."""
    mark = work / _MARK.format(command)
    if not mark.is_file():
        return
    for entry in list(work.iterdir()):
        if entry == mark:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp{target.suffix}")


def _locked(path: Path) -> int | None:
    """A descriptor that holds a lock for as long as this process lives; None if another has it, or there are none."""
    try:
        import fcntl
    except ImportError:  # Windows: leftovers stay
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
