"""The loop: rows in scoring order, one prefix for neighbours that share it, one line a row."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.prefetch import rows_with_tiles
from vprm_runtime.datasets.row_scorer import RowScorer, failure
from vprm_runtime.datasets.score_log import ScoreLog, has_error
from vprm_runtime.datasets.source import RowSource, open_rows
from vprm_runtime.errors import EngineError, InputError
from vprm_runtime.options import DEFAULT_OPTIONS, ScoreOptions
from vprm_runtime.scorer import StepScorer

Progress = Callable[[int, int | None, int], None]  # rows done, rows in all, rows with an error
MAX_ENGINE_FAILURES = 8  # rows in a row: then the engine is broken, not the rows


@dataclass(frozen=True)
class BatchSummary:
    """What a run did: rows of the input, of these found done and scored now, and those with an error."""

    rows: int
    resumed: int
    scored: int
    errors: int
    seconds: float

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
) -> BatchSummary:
    """Score all rows of a jsonl or parquet file into a jsonl file, going on where an earlier run stopped.

    A line a row: the document of `ScoreResult.to_dict` and the row's labels. A row that cannot be read or scored has
    its id and an `error` instead. Lines come in scoring order: rows with the same images and question together, groups
    in the order of their first row. Raises InputError where input or output is unusable, EngineError where the engine
    fails row after row.
    """
    began = time.monotonic()
    source = open_rows(Path(input_path), None if image_root is None else Path(image_root))
    target = Path(output_path)
    if target.exists() and target.samefile(input_path):
        raise InputError(f"{target} is the input: choose another output")
    with ScoreLog(target, _run_description(scorer, source, options)) as log:
        resumed = log.done
        log.check_ids(source.ids())
        loop = _Loop(scorer, options, log, lambda done, errors: progress(done, source.total, errors))
        loop.run(source)
    return BatchSummary(source.total, resumed, loop.scored, loop.errors, time.monotonic() - began)


def _run_description(scorer: StepScorer, source: RowSource, options: ScoreOptions) -> dict[str, Any]:
    """All that a row's scores depend on, rounding included."""
    return {
        "input": source.fingerprint,
        "bundle": f"sha256:{hashlib.sha256(scorer.manifest.to_json().encode()).hexdigest()}",
        "engine": scorer.engine.description,
        "max_block_tokens": scorer.max_block_tokens,
        "options": asdict(options),
    }


class _Loop:
    """The state of one run."""

    def __init__(
        self, scorer: StepScorer, options: ScoreOptions, log: ScoreLog, progress: Callable[[int, int], None]
    ) -> None:
        self._rows, self._log, self._progress = RowScorer(scorer, options), log, progress
        self._held: list[dict[str, Any]] = []  # failures of the engine, kept back until it works again
        self._done = log.done
        self.errors = log.errors
        self.scored = 0

    def run(self, source: RowSource) -> None:
        """Score and write every row that is not done yet."""
        self._progress(self._done, self.errors)
        to_do = (row for row in source if not self._log.take(row.id))
        for row, tiles in rows_with_tiles(to_do, self._rows.tiles):
            try:
                self._write(self._rows.document(row, tiles))
            except EngineError as error:
                self._hold(failure(row, error), error)
        self._release()

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
        self._log.append(document)
        self._done += 1
        self.scored += 1
        self.errors += has_error(document)
        self._progress(self._done, self.errors)
