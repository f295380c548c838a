"""Rows answered one by one, for a program that keeps this one running beside it and talks to it over a pipe."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.prefetch import MakeTiles, Tiles
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.row_scorer import RowScorer, failure
from vprm_runtime.datasets.score_file import MAX_ENGINE_FAILURES
from vprm_runtime.datasets.source import BadRow, row_from_line
from vprm_runtime.errors import EngineError, InputError
from vprm_runtime.options import DEFAULT_OPTIONS, ScoreOptions
from vprm_runtime.scorer import StepScorer


def _with_tiles(rows: RowScorer, row: Row | BadRow) -> tuple[Row | BadRow, MakeTiles]:
    """The row with its image files' content, which may be another at each row; one that cannot be read is bad."""
    if isinstance(row, BadRow):
        return row, list
    try:
        pinned = rows.pinned(row)
    except InputError as error:
        return row, partial(_raise, error)
    return pinned, partial(rows.tiles, pinned)


def _raise(error: InputError) -> Tiles:
    raise error


def score_stream(
    scorer: StepScorer,
    lines: Iterable[bytes],
    answer: Callable[[dict[str, Any]], None],
    *,
    image_root: Path,
    options: ScoreOptions = DEFAULT_OPTIONS,
) -> None:
    """Score each line's row and hand its document to `answer` before the next line is read.

    Rows are those of a jsonl file; blank lines are skipped. Every row gets one answer, in order: its scores, or its id
    and an `error`. A row with the images and question of the one before pays for its responses only. Raises
    EngineError where the engine fails on MAX_ENGINE_FAILURES rows in a row, all of which were answered.
    """
    rows = RowScorer(scorer, options)
    number = failures = 0
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = row_from_line(line, number, f"line {line_number}", image_root)
        number += 1
        try:
            document = rows.document(*_with_tiles(rows, row))
            failures = 0
        except EngineError as error:
            document = failure(row, error)
            failures += 1
        answer(document)
        if failures == MAX_ENGINE_FAILURES:
            raise EngineError(
                f"the engine failed on {failures} rows in a row ({document['error']}): mend the cause and start again"
            )
