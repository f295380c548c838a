"""Score the same rows with a reference and one or several candidates, row by row."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.datasets import BadRow
from vprm_runtime.datasets.row import Row
from vprm_runtime.engines.base import Engine, EngineProxy, ImageRows
from vprm_runtime.errors import InputError
from vprm_runtime.images.load import ImageInput
from vprm_runtime.options import ScoreOptions
from vprm_runtime.scorer import StepScorer

Scores = tuple[tuple[float, ...], ...]  # steps of each response
_REMEMBERED_IMAGES = 4
_FIRST_ROWS = 16


@dataclass(frozen=True)
class ComparedRow:
    """One row's step scores under the reference and a candidate, and its labels (1, 0, -1; None if it has none)."""

    id: str | int
    reference: Scores
    candidate: Scores
    labels: tuple[tuple[int, ...], ...] | None


class SharedVision(EngineProxy):
    """An engine that takes image embeddings from another one, which remembers the last few."""

    def __init__(self, engine: Engine, encode: Callable[[NDArray[np.uint8]], ImageRows]) -> None:
        super().__init__(engine)
        self._encode = encode

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> ImageRows:
        """The other engine's embeddings."""
        return self._encode(tiles)


def share_vision(scorers: Sequence[tuple[Bundle, StepScorer]]) -> list[StepScorer]:
    """Scorers of which those whose vision graphs are the same files, and whose LLMs take the same type, encode each
    image once."""
    sharing = []
    encoders: dict[tuple[object, ...], Callable[[NDArray[np.uint8]], ImageRows]] = {}
    for bundle, scorer in scorers:
        graphs = bundle.manifest.graphs
        hashes = (info.sha256 for info in bundle.manifest.files_of(graphs.vision).values())
        key = (*hashes, graphs.llm.io_dtype)  # image rows come in the type of the engine's LLM graph
        encode = encoders.setdefault(key, _remembering(scorer.engine.encode_tiles))
        sharing.append(scorer.with_engine(SharedVision(scorer.engine, encode)))
    return sharing


def _remembering(encode: Callable[[NDArray[np.uint8]], ImageRows]) -> Callable[[NDArray[np.uint8]], ImageRows]:
    known: OrderedDict[bytes, ImageRows] = OrderedDict()

    def remembered(tiles: NDArray[np.uint8]) -> ImageRows:
        key = hashlib.blake2b(tiles.tobytes(), digest_size=16).digest()
        if key not in known:
            known[key] = encode(tiles)
            if len(known) > _REMEMBERED_IMAGES:
                known.popitem(last=False)
        return known[key]

    return remembered


@dataclass(frozen=True)
class LeftOutRow:
    """A row that one of the sides could not score, and why. `number` is its place in its file."""

    id: str | int
    number: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Compared rows by candidate, the same rows for each; the rows that were left out; the first of the others."""

    rows: dict[str, list[ComparedRow]]
    left_out: tuple[LeftOutRow, ...]
    first: tuple[Row, ...]


def compare(
    reference: StepScorer,
    candidates: Mapping[str, StepScorer],
    rows: Iterable[Row | BadRow],
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Score rows with all of them. A row that one cannot score is left out of all.

    Raises InputError (code "nothing_scored") if no row is left.
    """
    compared: dict[str, list[ComparedRow]] = {name: [] for name in candidates}
    left_out: list[LeftOutRow] = []
    first: list[Row] = []
    for number, row in enumerate(rows):
        try:
            if isinstance(row, BadRow):
                raise InputError(row.error)
            expected, labels = row_scores(reference, row), row_labels(row)
            found = {name: row_scores(scorer, row) for name, scorer in candidates.items()}
        except InputError as error:
            left_out.append(LeftOutRow(row.id, row.number, str(error)))
        else:
            first += [row] if len(first) < _FIRST_ROWS else []
            for name, scores in found.items():
                compared[name].append(ComparedRow(row.id, expected, scores, labels))
        progress(number + 1)
    if left_out and len(left_out) == number + 1:
        raise InputError(
            f"not one of {len(left_out)} rows could be scored, the first because: {left_out[0].reason}",
            code="nothing_scored",
        )
    return Comparison(compared, tuple(left_out), tuple(first))


def row_scores(scorer: StepScorer, row: Row) -> Scores:
    """Step scores of a row's responses. Raises InputError naming the row if one cannot be scored."""
    images: list[ImageInput] = list(row.images)
    how = row.options(ScoreOptions())
    result = scorer.score(images, row.question, row.responses, max_tiles=how.max_tiles, **vars(how.responses))
    for candidate in result.candidates:
        if candidate.error is not None:
            raise InputError(f"response {candidate.index}: {candidate.error}")
    return tuple(tuple(step.score for step in candidate.steps) for candidate in result.candidates)


def row_labels(row: Row) -> tuple[tuple[int, ...], ...] | None:
    """A label (1, 0, -1) for each step of each response; None without labels, or if steps are joined."""
    labels = row.labels.get("process_correctness")
    if labels is None or row.max_steps is not None:  # joined steps have no labels
        return None
    return tuple(tuple(int(label) for label in response) for response in labels)
