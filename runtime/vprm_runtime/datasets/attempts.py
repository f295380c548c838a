"""Which row a process was at when it died: a row that kills its process three times is set aside, and the rest goes on.

Beside an output stands `.attempt` while a shard is scored: the number of the row that is being scored and how often
that was begun. A run that ends in an orderly way removes it. If it is there at the start, the process before died
there, or while it decoded images of the row after. So the first two rows of every process are scored with nothing
running ahead: the row that dies then is the one to blame.
"""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from vprm_runtime.errors import EngineError, VprmError

MAX_TRIES = 3
CRASHED = "crashed"
"""Code of the error of a row that was set aside."""

_CAREFUL_ROWS = 2
_LINE = "{:20d} {:4d}\n"


class Attempts:
    """Counts how often a row was begun. A context manager; an exception passing through is an orderly end."""

    def __init__(self, output: Path) -> None:
        """Take up what an earlier process left beside `output`."""
        self._path = output.with_name(output.name + ".attempt")
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        text = os.pread(self._file, 64, 0).decode("ascii", "replace").split()
        is_whole = len(text) == 2 and all(part.isdigit() for part in text)
        self._row, self._tries = (int(text[0]), int(text[1])) if is_whole else (-1, 0)
        self._careful_rows = _CAREFUL_ROWS

    def begin(self, row: int) -> bool:
        """Note that a row is begun now; False if it was begun MAX_TRIES times before, so it is not to be begun."""
        self._tries = self._tries + 1 if row == self._row else 1
        self._row = row
        if self._tries > MAX_TRIES:
            return False
        os.pwrite(self._file, _LINE.format(row, self._tries).encode(), 0)
        return True

    def may_run_ahead(self) -> bool:
        """Whether the next row's images may be decoded before it is begun; asked once for every row, in order."""
        self._careful_rows -= 1
        return self._careful_rows < 0

    def forget(self) -> None:
        """The process ends in an orderly way: no row is to blame."""
        with suppress(OSError):
            self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not (isinstance(error, VprmError) and error.code == "locked"):  # then it is another process's to forget
            self.forget()
        os.close(self._file)


def crash_error() -> EngineError:
    """The error of a row that was set aside."""
    return EngineError(
        f"the process that scored this row died {MAX_TRIES} times: look at its images, and at free memory",
        code=CRASHED,
    )
