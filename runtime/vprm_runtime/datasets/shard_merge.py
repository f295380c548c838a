"""Outputs of shards become one file in input order, whole or not at all."""

import json
from array import array
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vprm_runtime.datasets.attempts import CRASHED
from vprm_runtime.datasets.score_log import has_error, has_scores, run_path, write_run
from vprm_runtime.datasets.shards import ShardSet
from vprm_runtime.errors import InputError
from vprm_runtime.files import whole_file

_MOST_NAMED = 100
_OPEN_FILES = 256


@dataclass(frozen=True)
class ScoredRows:
    """What outputs of shards hold.

    rows: lines. errors: rows with an error, of the row or of a response. usable: rows of which a response has a score.
    crashed_rows: rows set aside because they killed their process; `crashed` names the first 100, as (row, id).
    """

    rows: int
    errors: int
    usable: int
    crashed_rows: int
    crashed: tuple[tuple[int, str | int], ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of a run."""
        return asdict(self)

    @property
    def crashed_text(self) -> str:
        """The rows that were set aside, as messages name them."""
        names = [f"row {row}" if row == row_id else f"row {row} (id {row_id})" for row, row_id in self.crashed]
        more = self.crashed_rows - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")


def merge_scores(shards: ShardSet, scores: Path, target: Path) -> ScoredRows:
    """Merge the shards' outputs in the directory `scores` into the file `target`, in input order.

    Every row has to be there once. Memory: 24 bytes for each row. Beside `target`, `.run.json` describes the run as an
    unsharded one does. Raises InputError if a row is missing or there twice, if the outputs belong to different runs,
    or if `target` cannot be written.
    """
    paths = [scores / shard.output_name for shard in shards.shards]
    run = _common_run(paths) | {"input": shards.fingerprint}
    index = _Index(paths)
    index.check(shards.rows)
    try:
        with whole_file(target) as temporary:
            with temporary.open("wb") as file:
                index.write(file)
            write_run(target, run)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}): choose another path") from error
    return index.found


def scored_rows(path: Path) -> ScoredRows:
    """What an output holds."""
    return _Index([path]).found


class _Index:
    """Where each row's line is: file, offset; by row number."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._rows, self._files, self._offsets = array("Q"), array("Q"), array("Q")
        self._errors = self._usable = self._crashed = 0
        self._named: list[tuple[int, str | int]] = []
        for number, path in enumerate(paths):
            try:
                with path.open("rb") as file:
                    self._read(number, file)
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}): score its shard first") from error

    @property
    def found(self) -> ScoredRows:
        named = sorted(self._named, key=lambda pair: pair[0])
        return ScoredRows(len(self._rows), self._errors, self._usable, self._crashed, tuple(named))

    def check(self, rows: int) -> None:
        """Raise InputError unless the numbers are 0 to `rows` - 1, each once."""
        missing = rows - len(np.unique(np.frombuffer(self._rows, np.uint64)))
        if missing:
            raise InputError(f"{missing} of {rows} rows have no line yet: score the shards to the end, then merge")
        if len(self._rows) != rows:
            raise InputError(f"{len(self._rows) - rows} lines are there twice: score the shards to another directory")

    def write(self, target: BinaryIO) -> None:
        """Copy all lines to `target` in the order of their rows."""
        order = np.argsort(np.frombuffer(self._rows, np.uint64), kind="stable").tolist()
        with ExitStack() as stack:
            are_few = len(self._paths) <= _OPEN_FILES
            opened = [stack.enter_context(path.open("rb")) for path in self._paths] if are_few else []
            for line in order:
                number = self._files[line]
                if opened:
                    opened[number].seek(self._offsets[line])
                    target.write(opened[number].readline())
                else:
                    with self._paths[number].open("rb") as file:
                        file.seek(self._offsets[line])
                        target.write(file.readline())

    def _read(self, number: int, file: BinaryIO) -> None:
        offset = 0
        for line_number, line in enumerate(file, 1):
            try:
                document = json.loads(line)
                row, row_id = int(document["row"]), document["id"]
                is_crashed = document.get("code") == CRASHED
                self._errors += has_error(document)
                self._usable += has_scores(document)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {line_number} of {self._paths[number]} is damaged: score its shard to the end first"
                ) from error
            self._rows.append(row)
            self._files.append(number)
            self._offsets.append(offset)
            self._crashed += is_crashed
            if is_crashed and len(self._named) < _MOST_NAMED:
                self._named.append((row, row_id))
            offset += len(line)


def _common_run(paths: list[Path]) -> dict[str, Any]:
    """What the outputs' runs have in common: all but the input. Raises InputError if they differ."""
    first: dict[str, Any] | None = None
    for path in paths:
        try:
            run = json.loads(run_path(path).read_text("utf-8"))
            run = {key: run[key] for key in run if key != "input"}
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{run_path(path)} cannot be read ({error}): score its shard first") from error
        if first is not None and run != first:
            changed = ", ".join(key for key in sorted(first | run) if first.get(key) != run.get(key))
            raise InputError(f"{path} and {paths[0]} were scored with different {changed}: score one of them again")
        first = run
    return first or {}
