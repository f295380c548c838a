"""What an engine does: encode tiles, hold cached rows, run a block of tokens. Nothing of prompts or scores.

State is a value: the cache is passed in, a block is appended behind its rows, `truncate` forgets the newest rows and
`keep` all but some.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Block:
    """S new tokens behind P cached ones, in the terms of `graph_io`."""

    input_ids: Int64Array  # [S]
    image_embeds: FloatArray  # [R, hidden]
    position_ids: Int64Array  # [S]
    attention_mask: NDArray[np.bool_]  # [S, P+S]
    score_positions: Int64Array  # [K], K may be 0


class KVCache(Protocol):
    """Keys and values of all layers for the tokens run so far, oldest first."""

    @property
    def length_tokens(self) -> int:
        """Number of cached rows."""
        ...

    def truncate(self, length_tokens: int) -> None:
        """Forget all rows from `length_tokens` on."""
        ...

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these, which are ascending; row rows[i] becomes row i."""
        ...

    @property
    def capacity_tokens(self) -> int:
        """Number of rows that fit without a copy."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that the cache holds: its capacity, not only the rows in use."""
        ...

    def trim(self) -> None:
        """Give memory beyond the cached rows back; the next block takes some again."""
        ...

    def release(self) -> None:
        """Give all memory back at once. The cache cannot be used afterwards."""
        ...


class CachedRows:
    """What all caches have in common: how many rows they hold. Where the rows are is the derived class's."""

    def __init__(self) -> None:
        self._length = 0

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
        """Count rows that were written behind the cached ones."""
        self._length += tokens


def kept_in_place(rows: Int64Array, length_tokens: int) -> int:
    """How many of the first rows to keep need not move. Raises ValueError unless they are ascending cached rows."""
    if len(rows) and (rows[0] < 0 or rows[-1] >= length_tokens or (np.diff(rows) <= 0).any()):
        raise ValueError(f"rows to keep must be ascending and below {length_tokens}, got {rows}")
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    return int(moved[0]) if len(moved) else len(rows)


class Engine(Protocol):
    """Runs the two graphs of one bundle on one device. Not safe for threads: one call at a time."""

    @property
    def description(self) -> str:
        """What runs where, for people: library, version, device, precision."""
        ...

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> FloatArray:
        """Image embeddings [T*tokens_per_tile, hidden] of tiles uint8 [T, size, size, 3]."""
        ...

    def new_cache(self, capacity_tokens: int) -> KVCache:
        """An empty cache that grows past `capacity_tokens` only by copying."""
        ...

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Append the block's rows to the cache; candidate-token logits float32 [K, C] at its score positions."""
        ...

    def close(self) -> None:
        """Give the graphs' memory back. The engine cannot be used afterwards."""
        ...


class EngineProxy:
    """An engine that passes everything on to another one; derive from it to watch or replace a part."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def description(self) -> str:
        """The inner engine's."""
        return self._engine.description

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> FloatArray:
        """The inner engine's."""
        return self._engine.encode_tiles(tiles)

    def new_cache(self, capacity_tokens: int) -> KVCache:
        """The inner engine's."""
        return self._engine.new_cache(capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """The inner engine's."""
        return self._engine.forward(block, cache)

    def close(self) -> None:
        """Close the inner engine."""
        self._engine.close()

    def __getattr__(self, name: str) -> Any:
        """Whatever else the inner engine offers."""
        return getattr(self._engine, name)
