"""What an engine does: encode tiles, hold cached rows, run a block of tokens. Nothing of prompts or scores.

State is a value: the cache is passed in, a block's rows are appended after the cached ones, `truncate` forgets the
newest rows and `keep` all but some.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.errors import EngineError

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]
_ONE_ROW: Int64Array = np.zeros(1, np.int64)


class ImageRows(Protocol):
    """Image embeddings [N, hidden] in the floating type of the engine's LLM graph: a NumPy array, or rows on a device.

    A slice shares the memory. `numpy.asarray` reads them on the host. They belong to the engine that made them, or to
    one whose LLM graph takes the same type: `check_image_rows` refuses others.
    """

    @property
    def dtype(self) -> np.dtype[Any]:
        """Floating type of the values."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, hidden)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> "ImageRows": ...

    def __array__(self) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Block:
    """S new tokens after P cached ones. Each field is an input of the LLM graph, named as in `graph_io`."""

    input_ids: Int64Array  # [S]
    image_embeds: ImageRows  # [R, hidden]
    position_ids: Int64Array  # [S]
    attention_mask: NDArray[np.bool_]  # [S, P+S]
    score_positions: Int64Array  # [K], K may be 0

    @property
    def graph_score_positions(self) -> Int64Array:
        """`score_positions`, or one arbitrary row if there are none: the graph wants K >= 1."""
        return self.score_positions if len(self.score_positions) else _ONE_ROW

    def inputs(self) -> dict[str, ImageRows]:
        """The LLM graph's inputs by name, cached rows not among them; image rows may be on a device."""
        return {
            "input_ids": self.input_ids,
            "image_embeds": self.image_embeds,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
            "score_positions": self.graph_score_positions,
        }

    def host_inputs(self) -> dict[str, NDArray[Any]]:
        """The same, all as NumPy arrays."""
        return {name: np.asarray(values) for name, values in self.inputs().items()}


def check_image_rows(block: Block, image_token: int, dtype: DTypeLike) -> None:
    """Raise EngineError unless a block has one row of type `dtype` for each image token, no more and no fewer.

    Every engine checks this before it runs a block: a graph takes rows by position, and a device takes bytes.
    """
    expected, rows = int(np.count_nonzero(block.input_ids == image_token)), block.image_embeds
    if len(rows) != expected:
        raise EngineError(
            f"the block has {expected} image tokens and {len(rows)} image rows: give each block the rows of its own "
            "image tokens, in order"
        )
    if rows.dtype != np.dtype(dtype):
        raise EngineError(
            f"image rows are {rows.dtype}, this LLM graph takes {np.dtype(dtype)}: encode the tiles with an engine "
            "whose LLM graph takes the same type"
        )


def no_image_rows(manifest: Manifest) -> ImageRows:
    """Image rows of a block without image tokens: [0, hidden]."""
    return np.zeros((0, manifest.model.hidden_size), manifest.graphs.llm.io_dtype)


class KVCache(Protocol):
    """Keys and values of all layers for the tokens run so far, oldest first."""

    @property
    def length_tokens(self) -> int:
        """Number of cached rows."""
        ...

    @property
    def capacity_tokens(self) -> int:
        """Number of rows that fit without a copy."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that the cache holds: its capacity, not only the rows in use."""
        ...

    def truncate(self, length_tokens: int) -> None:
        """Forget all rows from `length_tokens` on."""
        ...

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these, which are ascending; row rows[i] becomes row i."""
        ...

    def trim(self) -> None:
        """Give memory beyond the cached rows back; the next block takes some again."""
        ...

    def release(self) -> None:
        """Give all memory back at once. The cache cannot be used afterwards."""
        ...


class CachedRows:
    """What all caches have in common: how many rows they hold, and whether they were released."""

    def __init__(self) -> None:
        self._length = 0
        self._released = False

    @property
    def length_tokens(self) -> int:
        """Number of cached rows."""
        return self._length

    def truncate(self, length_tokens: int) -> None:
        """Forget all rows from `length_tokens` on."""
        if not 0 <= length_tokens <= self._length:
            raise ValueError(f"cannot truncate {self._length} cached rows to {length_tokens}")
        self._length = length_tokens

    def advance(self, tokens: int) -> None:
        """Count rows that were written after the cached ones."""
        self._length += tokens

    def release(self) -> None:
        """Forget everything. Derived classes give the memory back."""
        self._length, self._released = 0, True

    def check_usable(self) -> None:
        """Raise ValueError if the cache was released."""
        if self._released:
            raise ValueError("the cache was released: take a new one from the engine")


def kept_in_place(rows: Int64Array, length_tokens: int) -> int:
    """How many of the first rows to keep need not move. Raises ValueError unless they are ascending cached rows."""
    if len(rows) and (rows[0] < 0 or rows[-1] >= length_tokens or (np.diff(rows) <= 0).any()):
        raise ValueError(f"rows to keep must be ascending and below {length_tokens}, got {rows}")
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    return int(moved[0]) if len(moved) else len(rows)


def grown_capacity(needed_tokens: int, capacity_tokens: int) -> int:
    """Capacity of a cache that has to grow: half as much again at least, so that copies stay rare."""
    return max(needed_tokens, capacity_tokens + capacity_tokens // 2)


class Engine(Protocol):
    """Runs the two graphs of one bundle on one device. Not safe for threads: one call at a time."""

    @property
    def description(self) -> str:
        """What runs where, for people: library, version, device, precision. Can be read after `close`."""
        ...

    @property
    def precisions(self) -> tuple[str, str]:
        """What the vision and the LLM graph compute in: the bundle's precision, or "bf16" if that is coarser."""
        ...

    @property
    def max_block_tokens(self) -> int:
        """New tokens that the engine wants in one block at most; it may take more, in parts."""
        ...

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> ImageRows:
        """Image embeddings [T*tokens_per_tile, hidden] of tiles uint8 [T, size, size, 3].

        Raises EngineError if the vision graph fails or the engine is closed.
        """
        ...

    def new_cache(self, capacity_tokens: int) -> KVCache:
        """An empty cache that grows past `capacity_tokens` only by copying. Raises InputError if it does not fit."""
        ...

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Append the block's rows to the cache; candidate-token logits float32 [K, C] at its score positions.

        On an error the cache is as before. Raises EngineError if the graph fails, image rows do not fit the block
        (`check_image_rows`) or the engine is closed; InputError if the block is too long for the engine; TypeError if
        the cache is another engine's.
        """
        ...

    def synchronize(self) -> None:
        """Wait for all queued work: for measurements."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        ...

    def close(self) -> None:
        """Give the graphs' memory back. Afterwards `encode_tiles`, `new_cache` and `forward` raise EngineError."""
        ...


def closed_error() -> EngineError:
    """What a closed engine raises."""
    return EngineError("the engine is closed: open the bundle again")


class EngineProxy:
    """An engine that passes everything on to another one; derive from it to watch or replace a part."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def description(self) -> str:
        """The inner engine's."""
        return self._engine.description

    @property
    def precisions(self) -> tuple[str, str]:
        """The inner engine's."""
        return self._engine.precisions

    @property
    def max_block_tokens(self) -> int:
        """The inner engine's."""
        return self._engine.max_block_tokens

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> ImageRows:
        """The inner engine's."""
        return self._engine.encode_tiles(tiles)

    def new_cache(self, capacity_tokens: int) -> KVCache:
        """The inner engine's."""
        return self._engine.new_cache(capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """The inner engine's."""
        return self._engine.forward(block, cache)

    def synchronize(self) -> None:
        """Wait for the inner engine."""
        self._engine.synchronize()

    @property
    def is_closed(self) -> bool:
        """The inner engine's."""
        return self._engine.is_closed

    def close(self) -> None:
        """Close the inner engine."""
        self._engine.close()
