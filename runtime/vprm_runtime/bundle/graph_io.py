"""Inputs and outputs of the two graphs: the one description that exporter, builder, runtime and tests share.

Vision graph

    tiles                 uint8   [T, size, size, 3]          raw RGB pixels, row-major
    -> image_embeds       float   [T*tokens_per_tile, hidden]

LLM graph (batch 1, packed: S new tokens behind P cached ones; K score positions, C candidate tokens)

    input_ids             int64   [S]                          new tokens
    image_embeds          float   [R, hidden]                  rows for the image-context tokens among them, in order
    position_ids          int64   [S]                          rotary positions
    attention_mask        bool    [S, P+S]                     True where row may look at column
    score_positions       int64   [K]                          rows of S whose logits are wanted, K >= 1
    past.{i}.key          float   [P, kv_heads*head_dim]       cached rows of layer i, oldest first
    past.{i}.value        float   [P, kv_heads*head_dim]
    -> step_logits        float32 [K, C]                       logits of the candidate tokens only
    -> new.{i}.key        float   [S, kv_heads*head_dim]       rows to append to the cache
    -> new.{i}.value      float   [S, kv_heads*head_dim]

`float` is the bundle's floating type: float32 or float16.
"""

from dataclasses import dataclass
from typing import Literal

DType = Literal["uint8", "int64", "bool", "float32", "float16"]
FloatDType = Literal["float32", "float16"]
Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one graph input or output; a string dimension is dynamic."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class GraphIO:
    """All inputs and outputs of one graph, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def vision_io(*, tile_size_px: int, hidden_size: int, dtype: FloatDType) -> GraphIO:
    """Inputs and outputs of the vision graph."""
    return GraphIO(
        inputs=(TensorSpec("tiles", "uint8", ("T", tile_size_px, tile_size_px, 3)),),
        outputs=(TensorSpec("image_embeds", dtype, ("R", hidden_size)),),
    )


def llm_io(*, layers: int, hidden_size: int, kv_width: int, candidates: int, dtype: FloatDType) -> GraphIO:
    """Inputs and outputs of the LLM graph; `kv_width` is kv_heads * head_dim."""
    past, new = [], []
    for layer in range(layers):
        for part in ("key", "value"):
            past.append(TensorSpec(f"past.{layer}.{part}", dtype, ("P", kv_width)))
            new.append(TensorSpec(f"new.{layer}.{part}", dtype, ("S", kv_width)))
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
