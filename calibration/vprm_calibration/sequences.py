"""Rows become token sequences: what the LLM sees for one response, in one pass, with its image embeddings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_export.graphs.builder import FLOAT32
from vprm_runtime.bundle.graph_io import cache_names
from vprm_runtime.datasets import BadRow
from vprm_runtime.datasets.row import Row
from vprm_runtime.engines.base import check_image_rows, no_image_rows
from vprm_runtime.errors import InputError
from vprm_runtime.execution.blocks import causal_block
from vprm_runtime.scorer import StepScorer

RESPONSES_A_ROW = 2  # later ones differ little from the first in what they show of the activations


class Rows(Protocol):
    """Rows to calibrate on: a whole file of them (`RowSource`), or some."""

    @property
    def total(self) -> int:
        """Number of rows."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the rows do."""
        ...

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows, the same in the same order every time."""
        ...


@dataclass(frozen=True)
class SequenceLimits:
    """How much of a file of rows is used."""

    max_rows: int
    max_tiles: int | None = None


def feeds_of_rows(
    scorer: StepScorer,
    rows: Rows,
    limits: SequenceLimits,
    leave_out: Callable[[Row | BadRow, str], None] = lambda row, reason: None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """The LLM graph's inputs, mask and cached rows aside, for the first responses of each row.

    A row that cannot be used goes to `leave_out` with the reason, and does not count. Raises InputError (code
    "nothing_scored") if none can be used.
    """
    used = 0
    first: str | None = None
    for row in rows:
        if used == limits.max_rows:
            return
        try:
            if isinstance(row, BadRow):
                raise InputError(row.error)
            yield from list(_feeds(scorer, row, limits.max_tiles))
            used += 1
        except InputError as error:
            first = first or str(error)
            leave_out(row, str(error))
    if not used:
        raise InputError(f"not one of {rows.total} rows can be used, the first because: {first}", code="nothing_scored")


def _feeds(scorer: StepScorer, row: Row, max_tiles: int | None) -> Iterator[dict[str, NDArray[Any]]]:
    manifest = scorer.manifest
    limits = [limit for limit in (manifest.tiling.max_tiles, row.max_tiles, max_tiles) if limit is not None]
    tiles = scorer.tiles(row.images, min(limits))
    rows = scorer.engine.encode_tiles(np.concatenate(tiles)) if tiles else no_image_rows(manifest)
    for response in row.responses[:RESPONSES_A_ROW]:
        prompt = scorer.prepare(row.question, [len(image) for image in tiles], response, row.max_steps)
        length = prompt.score_positions[-1] + 1
        block = causal_block(prompt.ids[:length], 0, rows, prompt.score_positions)
        check_image_rows(block, manifest.tokens.img_context, manifest.graphs.llm.io_dtype)
        yield {name: array for name, array in block.host_inputs().items() if name != "attention_mask"}


def with_context(stored: dict[str, NDArray[Any]], layers: int, kv_width: int, dtype: Any = FLOAT32) -> dict[str, Any]:
    """A stored sequence's feeds with its causal mask and an empty cache."""
    tokens = len(stored["input_ids"])
    empty = np.zeros((0, kv_width), dtype)
    past = {name.past: empty for name in cache_names(layers)}
    return {**stored, "attention_mask": np.tri(tokens, dtype=np.bool_), **past}


def stored_sequences(directory: Path) -> list[Path]:
    """Sequence files of a working directory, in order."""
    return sorted(directory.glob("sequence-*.npz"))
