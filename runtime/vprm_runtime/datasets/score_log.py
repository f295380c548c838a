"""The output file of a batch run: lines appended whole, and what makes resuming safe.

Beside `scores.jsonl` stands `scores.jsonl.run.json` with the run's fingerprint (input, image root, bundle, engine,
options). A later run with the same fingerprint goes on where the file ends; with another one it is refused, because one
file would then hold scores that cannot be compared. A line is one write followed by a flush, so a killed process leaves
at most one partial line at the end, which is cut off on resuming.

Rows are known by their place in the input (`row`), so ids may repeat. Rows that have an error instead of scores are
dropped on resuming, and so tried again, unless they are to be kept.
"""

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from vprm_runtime.datasets.line_log import LineLog
from vprm_runtime.datasets.row import RowId
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.files import open_regular, write_whole

_ROUNDING = 1e-6  # by which a score may lie outside 0 to 1
IMAGE_ROOT = "image root"  # key of a run's description


@dataclass
class _Found:
    """What an output holds: rows by number with their ids as hashes, and what they are worth."""

    rows: dict[int, bytes] = field(default_factory=dict)
    failed: int = 0  # rows without scores
    errors: int = 0  # rows with an error, of the row or of a response
    scored: int = 0  # rows of which a response has a score
    has_images: bool = False  # whether a row with scores has images
    strange: str | None = None  # what is wrong with the first row that the input cannot have


class ScoreLog:
    """An output file open for appending, locked against a second writer. A context manager."""

    def __init__(self, path: Path, run: Mapping[str, Any], rows: Container[int], keep_errors: bool = False) -> None:
        """Open or create `path` for the run described by `run` (JSON values) over rows of these numbers.

        A partial last line is cut off; rows with an error instead of scores are dropped, unless `keep_errors`. Raises
        InputError if the file cannot be written, is being written, belongs to another run or is damaged.
        """
        self._path = path
        self._log = LineLog(path)
        self._run_path = run_path(path)
        try:
            self._log.lock()
            before = self._read_run()
            self._check_origin(before)
            found = self._read(rows, keep_errors)
            self._check_run(before, dict(run), found)
            if found.strange is not None:
                raise InputError(found.strange)
            self._log.cut_partial_line()
            if found.failed and not keep_errors:
                self._log.keep_only(lambda line: "error" not in json.loads(line))
            self._write_run(before, dict(run))
        except BaseException:
            self._log.close()
            raise
        self._done = found.rows
        self.errors, self.scored = found.errors, found.scored
        self.retried = 0 if keep_errors else found.failed

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
        return len(self._done)

    def take(self, number: int, row_id: RowId) -> bool:
        """Whether the row of this number is done already. Raises InputError if the output has another row there."""
        done = self._done.pop(number, None)
        if done is None:
            return False
        if done != _id_key(row_id):
            raise InputError(
                f"{self._path} has another id than the input at row {number}: choose another output, or remove it to "
                "start again"
            )
        return True

    def append(self, document: Mapping[str, Any]) -> None:
        """Write one row's line."""
        self._log.append(json.dumps(document, ensure_ascii=False, allow_nan=False).encode())

    def _check_origin(self, before: Mapping[str, Any] | None) -> None:
        if self._log.size_bytes and before is None:
            raise InputError(
                f"{self._path} exists already and nothing says which run wrote it ({self._run_path.name} is missing): "
                "choose another output, or remove it"
            )

    def _check_run(self, before: Mapping[str, Any] | None, run: Mapping[str, Any], found: _Found) -> None:
        """Raise InputError if rows that are kept were scored by another run than `run`."""
        changed = [key for key in sorted({*(before or {}), *run}) if (before or {}).get(key) != run.get(key)]
        if not found.rows or not changed or (changed == [IMAGE_ROOT] and not found.has_images):
            return
        was = (
            f" (it was {quoted((before or {}).get(changed[0]), 120)})" if changed in ([IMAGE_ROOT], ["threads"]) else ""
        )
        raise InputError(
            f"{self._path} was begun with different {', '.join(changed)}{was}: choose another output, or remove it "
            "to start again"
        )

    def _write_run(self, before: Mapping[str, Any] | None, run: dict[str, Any]) -> None:
        if before != run:
            try:
                write_run(self._path, run)
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

    def _read(self, rows: Container[int], keep_errors: bool) -> _Found:
        """What the whole lines hold. Raises InputError on a damaged line."""
        found = _Found()
        for line_number, line in enumerate(self._log.lines(), 1):
            if not line.endswith(b"\n"):
                break
            document = _parsed(line)
            if document is None:
                raise InputError(
                    f"line {line_number} of {self._path} is damaged: remove the line and start again, it is scored anew"
                )
            if "error" in document and not keep_errors:
                found.failed += 1
                continue
            number = document["row"]
            if number in found.rows or number not in rows:
                found.strange = found.strange or (
                    f"line {line_number} of {self._path} has row {number}, which the input has not, or which is there "
                    "already: choose another output, or remove it to start again"
                )
            found.rows[number] = _id_key(document["id"])
            found.errors += has_error(document)
            found.scored += has_scores(document)
            found.has_images = found.has_images or bool(document.get("tiles"))
        return found


def run_path(output: Path) -> Path:
    """The file that describes the run that an output is of."""
    return output.with_name(output.name + ".run.json")


def write_run(output: Path, run: Mapping[str, Any]) -> None:
    """Describe the run that an output is of. Raises OSError."""
    write_whole(run_path(output), (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode())


def first_error(document: Mapping[str, Any]) -> str | None:
    """The error of a row's document, or of its first response that has one."""
    errors = [document.get("error"), *(result["error"] for result in document.get("results", ()))]
    return next((error for error in errors if error is not None), None)


def has_scores(document: Mapping[str, Any]) -> bool:
    """Whether a response of a row's document has a score."""
    return any(result["score"] is not None for result in document.get("results", ()))


def has_error(document: Mapping[str, Any]) -> bool:
    """Whether a row's document has an error, of the row or of a candidate."""
    return "error" in document or any(result["error"] is not None for result in document["results"])


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The document of a row as runs write it, or None for anything else."""
    try:
        document = json.loads(line, parse_constant=_refuse)  # no NaN
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or type(document.get("id")) not in (str, int):
        return None
    if type(document.get("row")) is not int or document["row"] < 0:
        return None
    results = document.get("results")
    is_error = isinstance(document.get("error"), str) and "results" not in document
    are_results = isinstance(results, list) and "error" not in document and all(map(_is_result, results))
    return document if is_error or are_results else None


def _is_result(result: object) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("error", 0), str | None):
        return False
    score = result.get("score", "")
    return score is None or (type(score) in (int, float) and -_ROUNDING <= score <= 1 + _ROUNDING)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _id_key(row_id: RowId) -> bytes:
    """16 bytes per row: what is kept of ids, however long they are. 7 and "7" differ."""
    return hashlib.blake2b(json.dumps(row_id).encode(), digest_size=16).digest()
