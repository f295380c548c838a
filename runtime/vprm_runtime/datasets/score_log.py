"""The output file of a batch run: lines appended whole, and what makes resuming safe.

Beside `scores.jsonl` stands `scores.jsonl.run.json` with the run's fingerprint (input, bundle, engine, options). A
later run with the same fingerprint goes on where the file ends; with another one it is refused, because one file
would then hold scores that cannot be compared. A line is one write followed by a flush, so a killed process leaves at
most one partial line at the end, which is cut off on resuming.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vprm_runtime.datasets.line_log import LineLog
from vprm_runtime.datasets.row import RowId
from vprm_runtime.errors import InputError
from vprm_runtime.files import open_regular, write_whole


class ScoreLog:
    """An output file open for appending, locked against a second writer. A context manager."""

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        """Open or create `path` for the run described by `run` (JSON values); cut off a partial last line.

        Raises InputError where the file cannot be written, is being written, belongs to another run or is damaged.
        """
        self._path = path
        self._log = LineLog(path)
        self._run_path = path.with_name(path.name + ".run.json")
        try:
            self._log.lock()
            self._check_run(dict(run))
            self._log.cut_partial_line()
            self.errors = 0
            self._done = self._read_done()
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._log.sync()
        finally:
            self._log.close()

    @property
    def images_path(self) -> Path:
        """Where the run lists the images that its rows were scored with."""
        return self._path.with_name(self._path.name + ".images")

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
        self._log.append(json.dumps(document, ensure_ascii=False, allow_nan=False).encode())

    def _check_run(self, run: dict[str, Any]) -> None:
        empty = self._log.size_bytes == 0
        before = self._read_run()
        if not empty and before is None:
            raise InputError(
                f"{self._path} exists already and nothing says which run wrote it ({self._run_path.name} is missing): "
                "choose another output, or remove it"
            )
        if not empty and before != run:
            keys = sorted(set(before) | set(run)) if before else []
            changed = ", ".join(key for key in keys if before and before.get(key) != run.get(key))
            raise InputError(
                f"{self._path} was begun with different {changed or 'settings'}: choose another output, or remove it "
                "to start again"
            )
        if before != run:
            try:
                write_whole(self._run_path, (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode())
            except OSError as error:
                raise InputError(f"{self._run_path} cannot be written ({error.strerror}): make room for it") from error

    def _read_run(self) -> dict[str, Any] | None:
        """What describes the run that wrote the output; None if nothing does."""
        try:
            with open_regular(self._run_path) as file:
                before = json.loads(file.read())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self._run_path} cannot be read ({error}): remove it and {self._path}") from error
        if not isinstance(before, dict):
            raise InputError(f"{self._run_path} is no JSON object: remove it and {self._path}")
        return before

    def _read_done(self) -> Counter[bytes]:
        done: Counter[bytes] = Counter()
        for number, line in enumerate(self._log.lines(), 1):
            document = _parsed(line)
            if document is None:
                raise InputError(
                    f"line {number} of {self._path} is damaged: remove the line and start again, it is scored anew"
                )
            done[_id_key(document["id"])] += 1
            self.errors += has_error(document)
        return done


def has_error(document: Mapping[str, Any]) -> bool:
    """Whether a row's document has an error, of the row or of a candidate."""
    return "error" in document or any(result["error"] is not None for result in document["results"])


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The document of a row as runs write it, or None for anything else."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or type(document.get("id")) not in (str, int):
        return None
    results = document.get("results")
    is_error = isinstance(document.get("error"), str) and "results" not in document
    are_results = isinstance(results, list) and "error" not in document and all(map(_is_result, results))
    return document if is_error or are_results else None


def _is_result(result: object) -> bool:
    return isinstance(result, dict) and isinstance(result.get("error", 0), str | None) and "score" in result


def _id_key(row_id: RowId) -> bytes:
    """16 bytes a row: what is kept of ids, however long they are. 7 and "7" differ."""
    return hashlib.blake2b(json.dumps(row_id).encode(), digest_size=16).digest()
