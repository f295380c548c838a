"""Inputs and outputs of the two graphs: the one description that exporter, builder, runtime and tests share.

Vision graph

    tiles                 uint8   [T, size, size, 3]          raw RGB pixels, row-major
    -> image_embeds       float   [T*tokens_per_tile, hidden]

LLM graph (batch 1, packed: S new tokens after P cached ones; K score positions, C candidate tokens)

    input_ids             int64   [S]                          new tokens
    image_embeds          float   [R, hidden]                  rows for the image-context tokens among them, in order
    position_ids          int64   [S]                          rotary positions
    attention_mask        bool    [S, P+S]                     True if row may look at column
    score_positions       int64   [K]                          rows of S whose logits are wanted, K >= 1
    past.{i}.key          float   [P, kv_heads*head_dim]       cached rows of layer i, oldest first
    past.{i}.value        float   [P, kv_heads*head_dim]
    -> step_logits        float32 [K, C]                       logits of the candidate tokens only
    -> new.{i}.key        float   [S, kv_heads*head_dim]       rows to append to the cache
    -> new.{i}.value      float   [S, kv_heads*head_dim]

`float` is the bundle's floating type: float32 or float16.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

DType = Literal["uint8", "int64", "bool", "float32", "float16"]
FloatDType = Literal["float32", "float16"]
Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one graph input or output; a string dimension is dynamic."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with the sizes of its dynamic dimensions, by name; of "P+S" their sum."""
        return tuple(dim if isinstance(dim, int) else sum(sizes[part] for part in dim.split("+")) for dim in self.shape)


@dataclass(frozen=True)
class GraphIO:
    """All inputs and outputs of one graph, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class CacheNames(NamedTuple):
    """Where one layer's keys (part 0) or values (part 1) enter and leave the LLM graph."""

    layer: int
    part: int
    past: str
    new: str


def layer_cache_names(layer: int) -> tuple[CacheNames, CacheNames]:
    """Names of one layer's keys and values."""
    key, value = (
        CacheNames(layer, part, f"past.{layer}.{kind}", f"new.{layer}.{kind}")
        for part, kind in enumerate(("key", "value"))
    )
    return key, value


def cache_names(layers: int) -> Iterator[CacheNames]:
    """Names of all cached rows' inputs and outputs, in the graph's order."""
    return chain.from_iterable(map(layer_cache_names, range(layers)))


def vision_io(*, tile_size_px: int, hidden_size: int, dtype: FloatDType) -> GraphIO:
    """Inputs and outputs of the vision graph."""
    return GraphIO(
        inputs=(TensorSpec("tiles", "uint8", ("T", tile_size_px, tile_size_px, 3)),),
        outputs=(TensorSpec("image_embeds", dtype, ("R", hidden_size)),),
    )


def llm_io(*, layers: int, hidden_size: int, kv_width: int, candidates: int, dtype: FloatDType) -> GraphIO:
    """Inputs and outputs of the LLM graph; `kv_width` is kv_heads * head_dim."""
    names = list(cache_names(layers))
    past = [TensorSpec(name.past, dtype, ("P", kv_width)) for name in names]
    new = [TensorSpec(name.new, dtype, ("S", kv_width)) for name in names]
    return GraphIO(
        inputs=(
            TensorSpec("input_ids", "int64", ("S",)),
            TensorSpec("image_embeds", dtype, ("R", hidden_size)),
            TensorSpec("position_ids", "int64", ("S",)),
            TensorSpec("attention_mask", "bool", ("S", "P+S")),
            TensorSpec("score_positions", "int64", ("K",)),
            *past,
        ),
        outputs=(TensorSpec("step_logits", "float32", ("K", candidates)), *new),
    )
