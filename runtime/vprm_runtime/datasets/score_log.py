"""The output file of a batch run: lines appended whole, and what makes resuming safe.

Beside `scores.jsonl` stands `scores.jsonl.run.json` with the run's fingerprint (input, bundle, engine, options). A
later run with the same fingerprint goes on where the file ends; with another one it is refused, because one file
would then hold scores that cannot be compared. A line is one write followed by a flush, so a killed process leaves at
most one partial line at the end, which is cut off on resuming.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from vprm_runtime.datasets.row import RowId
from vprm_runtime.errors import InputError

_CHUNK_BYTES = 1 << 16


class ScoreLog:
    """An output file open for appending, locked against a second writer. A context manager."""

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        """Open or create `path` for the run described by `run` (JSON values); cut off a partial last line.

        Raises InputError where the file cannot be written, is being written, or belongs to another run.
        """
        self._path = path
        self._run_path = path.with_name(path.name + ".run.json")
        try:
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise InputError(f"the output {path} cannot be written ({error.strerror}): choose another path") from error
        try:
            self._lock()
            self._check_run(dict(run))
            self._cut_partial_line()
            self.errors = 0
            self._done = self._read_done()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    @property
    def done(self) -> int:
        """Number of rows that an earlier run wrote and that are not yet taken."""
        return self._done.total()

    def check_ids(self, ids: Iterable[RowId]) -> None:
        """Raise InputError unless every row that is done is one of the input's."""
        if self._done and (left := self._done - Counter(_id_key(row_id) for row_id in ids)):
            raise InputError(
                f"{self._path} has {left.total()} rows that are not in the input, or more than once: "
                "choose another output, or remove it to start again"
            )

    def take(self, row_id: RowId) -> bool:
        """Whether the next row with this id is done already."""
        key = _id_key(row_id)
        if key not in self._done:
            return False
        self._done[key] -= 1
        if not self._done[key]:
            del self._done[key]
        return True

    def append(self, document: Mapping[str, Any]) -> None:
        """Write one row's line."""
        self._file.write(json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{self._path} is being written by another process: wait for it, or stop it") from error

    def _check_run(self, run: dict[str, Any]) -> None:
        empty = os.fstat(self._file.fileno()).st_size == 0
        try:
            before = json.loads(self._run_path.read_text("utf-8"))
        except FileNotFoundError:
            before = None
        except (OSError, ValueError) as error:
            raise InputError(f"{self._run_path} cannot be read ({error}): remove it and {self._path}") from error
        if not empty and before is None:
            raise InputError(
                f"{self._path} exists already and nothing says which run wrote it ({self._run_path.name} is missing): "
                "choose another output, or remove it"
            )
        if not empty and before != run:
            keys = sorted(set(before) | set(run)) if isinstance(before, dict) else []
            changed = ", ".join(key for key in keys if before.get(key) != run.get(key))
            raise InputError(
                f"{self._path} was begun with different {changed or 'settings'}: choose another output, or remove it "
                "to start again"
            )
        if before != run:
            temporary = self._run_path.with_name(self._run_path.name + ".tmp")
            temporary.write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", "utf-8")
            temporary.replace(self._run_path)

    def _cut_partial_line(self) -> None:
        """Cut the file behind its last line break, looked for from the end."""
        end = position = os.fstat(self._file.fileno()).st_size
        while position > 0:
            start = max(0, position - _CHUNK_BYTES)
            self._file.seek(start)
            found = self._file.read(position - start).rfind(b"\n")
            if found >= 0:
                position = start + found + 1
                break
            position = start
        if position < end:
            self._file.truncate(position)

    def _read_done(self) -> Counter[bytes]:
        done: Counter[bytes] = Counter()
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            try:
                document = json.loads(line)
                done[_id_key(document["id"])] += 1
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {self._path} is damaged: remove the line and start again"
                ) from error
            self.errors += has_error(document)
        return done


def has_error(document: Mapping[str, Any]) -> bool:
    """Whether a row's document has an error, of the row or of a candidate."""
    return "error" in document or any(result["error"] is not None for result in document["results"])


def _id_key(row_id: RowId) -> bytes:
    """16 bytes a row: what is kept of ids, however long they are. 7 and "7" differ."""
    return hashlib.blake2b(json.dumps(row_id).encode(), digest_size=16).digest()
