"""What an engine does: encode tiles, hold cached rows, run a block of tokens. Nothing of prompts or scores.

State is a value: the cache is passed in, a block is appended behind its rows, `truncate` forgets the newest rows.
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


class Engine(Protocol):
    """Runs the two graphs of one bundle on one device."""

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
