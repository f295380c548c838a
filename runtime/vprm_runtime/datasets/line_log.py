"""A regular file to which whole lines are appended: what outputs of batch runs are made of.

A killed process leaves at most one partial line at the end, which the next one cuts off. A write that fails (a full
disk, a limit) is undone, so that the file still ends in a whole line, and the error says that running again goes on.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from vprm_runtime.errors import InputError, quoted
from vprm_runtime.files import NotRegularError, check_regular

_CHUNK_BYTES = 1 << 16
_NAMES = ("O_RDWR", "O_CREAT", "O_APPEND", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
_FLAGS = sum(getattr(os, name, 0) for name in _NAMES)


def check_output(path: Path) -> None:
    """Raise InputError if something other than a regular file is at `path`."""
    try:
        if path.exists():
            check_regular(path, path.stat().st_mode)
    except NotRegularError as error:
        raise InputError(f"the output {quoted(path)} is {error.strerror}: name a file to write") from error


class LineLog:
    """An open file of lines. Not safe for concurrent calls."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`. Raises InputError if it cannot be written or is no regular file."""
        self.path = path
        try:
            check_output(path)  # before opening: that alone can start a device
            self._file = os.open(path, _FLAGS, 0o666)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"the output {quoted(path)} cannot be written ({why}): choose another path") from error
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            self.close()
            raise InputError(f"the output {quoted(path)} is no regular file: name a file to write")

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file).st_size

    def lock(self) -> None:
        """Keep other processes from writing. Raises InputError if one does."""
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{self.path} is being written by another process: wait for it, or stop it", code="locked"
            ) from error

    def cut_partial_line(self, all_lines: bool = False) -> None:
        """Cut the file after its last line break, looked for from the end; or cut off `all_lines`."""
        with open(self._file, "rb", buffering=0, closefd=False) as file:
            end = position = self.size_bytes
            position = 0 if all_lines else end
            while position > 0:
                start = max(0, position - _CHUNK_BYTES)
                file.seek(start)
                found = file.read(position - start).rfind(b"\n")
                if found >= 0:
                    position = start + found + 1
                    break
                position = start
        if position < end:
            os.truncate(self._file, position)

    def lines(self) -> Iterator[bytes]:
        """Every line, from the first. Nothing may be appended meanwhile."""
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            yield from file

    def keep_only(self, is_kept: Callable[[bytes], bool]) -> None:
        """Drop lines, whole or not at all: the others go into a new file that takes this one's place, locked too.

        Raises InputError if the disk does not take it, or if another process is faster.
        """
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("xb") as target:
                target.writelines(line for line in self.lines() if is_kept(line))
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            temporary.unlink(missing_ok=True)
        os.close(self._file)
        self._file = os.open(self.path, _FLAGS, 0o666)
        self.lock()

    def append(self, line: bytes) -> None:
        """Write a line. Raises InputError if the disk takes it not, or only in part: then the part is taken back."""
        start, rest = self.size_bytes, memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._file, start)
            raise self._failed(error) from error

    def sync(self) -> None:
        """Wait until the disk has everything. Raises InputError if it has not."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _failed(self, error: OSError) -> InputError:
        return InputError(
            f"writing {self.path} failed ({error.strerror}): mend that and run again, it goes on where it stopped"
        )
