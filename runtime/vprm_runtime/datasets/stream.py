"""Rows answered one by one, for a program that keeps this one running beside it and talks to it over a pipe."""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.parsed_row import BadRow, row_from_line
from vprm_runtime.datasets.prefetch import MakeTiles, Tiles
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.row_notes import LiveNotes
from vprm_runtime.datasets.row_scorer import RowScorer, failure, watch_splitting
from vprm_runtime.datasets.score_file import MAX_ENGINE_FAILURES
from vprm_runtime.errors import EngineError, InputError
from vprm_runtime.options import DEFAULT_OPTIONS, ScoreOptions
from vprm_runtime.prompt.steps import SplittingWatch
from vprm_runtime.scorer import StepScorer

_LOG = logging.getLogger("vprm")
_ROWS_BEFORE_SPLITTING = 10  # seen before a stream that goes on for ever is told that no response has two steps


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
    and an `error`. A row with the images and question of the one before pays for its responses only. What a user should
    know beside errors (keys that are not read, ids that repeat, responses that are one step each) is logged once.
    Raises EngineError if the engine fails on MAX_ENGINE_FAILURES rows in a row, all of which were answered.
    """
    rows = RowScorer(scorer, options)
    notes, watch = LiveNotes(partial(_LOG.warning, "%s")), SplittingWatch()
    number = failures = 0
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = row_from_line(line, number, f"line {line_number}", image_root)
        number += 1
        notes.add_id(row.id, f"line {line_number}")
        if isinstance(row, Row):
            notes.add(row, f"line {line_number}")
        try:
            document = rows.document(*_with_tiles(rows, row))
            failures = 0
        except EngineError as error:
            document = failure(row, error)
            failures += 1
        answer(document)
        watch_splitting(watch, row, document, options)
        if number == _ROWS_BEFORE_SPLITTING:
            _say_splitting(watch, notes)
        if failures == MAX_ENGINE_FAILURES:
            raise EngineError(
                f"the engine failed on {failures} rows in a row ({document['error']}): mend the cause and start again"
            )
    _say_splitting(watch, notes)


def _say_splitting(watch: SplittingWatch, notes: LiveNotes) -> None:
    if watch.warning is not None:
        notes.once(watch.warning, "splitting")
