"""The loop: rows in scoring order, one prefix for neighbours that share it, one line per row."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.attempts import Attempts, crash_error
from vprm_runtime.datasets.parsed_row import BadRow
from vprm_runtime.datasets.prefetch import rows_with_tiles
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.row_scorer import RowScorer, failure, watch_splitting
from vprm_runtime.datasets.score_log import IMAGE_ROOT, ScoreLog, first_error, has_error, has_scores
from vprm_runtime.datasets.source import RowSource, open_rows
from vprm_runtime.datasets.unchanged import ImageLog
from vprm_runtime.errors import EngineError, InputError, quoted
from vprm_runtime.options import DEFAULT_OPTIONS, ScoreOptions
from vprm_runtime.prompt.steps import SplittingWatch
from vprm_runtime.scorer import StepScorer

_LOG = logging.getLogger("vprm")
Progress = Callable[[int, int | None, int], None]  # rows done, rows in all, rows with an error
MAX_ENGINE_FAILURES = 8  # rows in a row: then the engine is broken, not the rows


@dataclass(frozen=True)
class BatchSummary:
    """What a run did.

    rows: of the input. resumed: of these found done. scored: written now, those with an error too. errors: rows with an
    error, of the row or of a response. usable: rows of which a response has a score. retried: rows that had an error
    before and were tried again.
    """

    rows: int
    resumed: int
    scored: int
    errors: int
    seconds: float
    usable: int = 0
    retried: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of a run."""
        return asdict(self)


def score_file(
    scorer: StepScorer,
    input_path: str | Path,
    output_path: str | Path,
    *,
    image_root: str | Path | None = None,
    options: ScoreOptions = DEFAULT_OPTIONS,
    progress: Progress = lambda done, total, errors: None,
    attempts: Attempts | None = None,
    keep_errors: bool = False,
    strict: bool = False,
    with_outcome: bool = False,
) -> BatchSummary:
    """Score all rows of a jsonl or parquet file into a jsonl file, going on where an earlier run stopped.

    A line per row: the document of `ScoreResult.to_dict` and the row's labels. A row that cannot be read or scored has
    its id and an `error` instead. Lines come in scoring order: rows with the same images and question together, groups
    in the order of their first row. Beside the output stand `.run.json`, which describes the run, and `.images`, which
    lists the images that rows were scored with. Rows that an earlier run left with an error are tried again and come
    last, unless `keep_errors`. With `strict` the first row with an error ends the run and is not written. With
    `with_outcome` each document also has every response's score as one step (`outcome`). With `attempts`, a row that
    killed its process again and again gets an error (code "crashed") instead of another try.
    Raises InputError if input or output is unusable or changed since, EngineError if the engine fails row after
    row.
    """
    began = time.monotonic()
    source = open_rows(Path(input_path), None if image_root is None else Path(image_root))
    target = Path(output_path)
    if _is_same_file(target, Path(input_path)):
        raise InputError(f"{target} is the input: choose another output")
    with (
        ScoreLog(target, _run_description(scorer, source, options, with_outcome), source.numbers, keep_errors) as log,
        ImageLog(log.images_path, is_new=not log.done) as images,
    ):
        resumed = log.done
        rows = RowScorer(scorer, options, images.read, with_outcome)
        loop = _Loop(rows, options, log, images, lambda done, errors: progress(done, source.total, errors), strict)
        loop.run(source, attempts)
    seconds = time.monotonic() - began
    return BatchSummary(source.total, resumed, loop.scored, loop.errors, seconds, loop.usable, log.retried)


def _is_same_file(output: Path, source: Path) -> bool:
    try:
        return output.samefile(source)
    except (OSError, ValueError):  # no such output yet, or no such path
        return False


def _run_description(
    scorer: StepScorer, source: RowSource, options: ScoreOptions, with_outcome: bool
) -> dict[str, Any]:
    """All that a row's document depends on, rounding included."""
    more = {"outcome": True} if with_outcome else {}
    return {
        "input": source.fingerprint,
        IMAGE_ROOT: ", ".join(str(root.resolve()) for root in source.image_roots),
        "bundle": scorer.manifest.fingerprint,
        "engine": scorer.engine.description,
        "threads": getattr(scorer.engine, "threads", None),
        "max_block_tokens": scorer.max_block_tokens,
        "options": asdict(options),
        **more,
    }


class _Loop:
    """The state of one run."""

    def __init__(
        self,
        rows: RowScorer,
        options: ScoreOptions,
        log: ScoreLog,
        images: ImageLog,
        progress: Callable[[int, int], None],
        strict: bool,
    ) -> None:
        self._rows, self._log, self._progress = rows, log, progress
        self._images = images
        self._held: list[dict[str, Any]] = []  # failures of the engine, kept back until it works again
        self._done = log.done
        self._strict, self._options, self._splitting = strict, options, SplittingWatch()
        self.errors, self.usable = log.errors, log.scored
        self.scored = 0

    def run(self, source: RowSource, attempts: Attempts | None) -> None:
        """Score and write every row that is not done yet."""
        self._progress(self._done, self.errors)
        to_do = (row for row in source if not self._log.take(row.number, row.id))
        may_run_ahead = attempts.may_run_ahead if attempts is not None else lambda: True
        for row, tiles in rows_with_tiles(to_do, self._rows.tiles, may_run_ahead):
            if attempts is not None and not attempts.begin(row.number):
                self._write(failure(row, crash_error()))
                continue
            try:
                document = self._rows.document(row, tiles)
            except EngineError as error:
                self._hold(failure(row, error), error)
            else:
                self._note_images(row, document)
                self._write(document)
                watch_splitting(self._splitting, row, document, self._options)
        self._release()
        if self._splitting.warning is not None:
            _LOG.warning("%s", self._splitting.warning)

    def _note_images(self, row: Row | BadRow, document: dict[str, Any]) -> None:
        if isinstance(row, Row):
            paths = [image for image in row.images if isinstance(image, Path)]
            (self._images.drop if "error" in document else self._images.keep)(paths)

    def _hold(self, document: dict[str, Any], error: EngineError) -> None:
        self._held.append(document)
        if len(self._held) >= MAX_ENGINE_FAILURES:
            raise EngineError(
                f"the engine failed on {len(self._held)} rows in a row, which were not written ({error}): "
                "mend the cause and run again, it goes on from here"
            ) from error

    def _write(self, document: dict[str, Any]) -> None:
        self._release()
        self._append(document)

    def _release(self) -> None:
        held, self._held = self._held, []
        for document in held:
            self._append(document)

    def _append(self, document: dict[str, Any]) -> None:
        if self._strict and has_error(document):
            raise InputError(f"row {document['row']} (id {quoted(document['id'], 60)}): {first_error(document)}")
        self._log.append(document)
        self._done += 1
        self.scored += 1
        self.errors += has_error(document)
        self.usable += has_scores(document)
        self._progress(self._done, self.errors)
