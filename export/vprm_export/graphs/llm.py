"""The LLM graph: packed new tokens after cached rows -> logits of the candidate tokens, and the rows to append.

Source of the maths: internlm/internlm2_5-7b-chat modeling_internlm2.py; transformers 5.23 models/llama, qwen2.
Deliberate differences: the head has only the candidate tokens' rows; after the last layer's keys and values only the
scored rows go on; dynamic NTK scaling is not applied, since it matters only for prompts past
max_position_embeddings, which the runtime refuses. Inputs and outputs: vprm_runtime.bundle.graph_io.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vprm_export.architecture import LlmArchitecture
from vprm_export.external_data import ExternalData
from vprm_export.graphs.builder import FLOAT32, GraphBuilder, LinearFormats
from vprm_export.graphs.llm_weights import LlmWeights
from vprm_export.precision.linears import linear_name
from vprm_export.weights import Weight, stacked
from vprm_runtime.bundle.graph_io import GraphIO, layer_cache_names


@dataclass(frozen=True)
class LlmDtypes:
    """Number types of the graph: of everything floating, of the embedding table as stored, of quantised Linears, and
    whether attention is the runtime's own operator, in bfloat16."""

    dtype: np.dtype[Any]
    table_dtype: np.dtype[Any]
    linear_formats: LinearFormats = lambda linear: None
    native_attention: bool = False


def build_llm_graph(
    llm: LlmArchitecture,
    img_context_id: int,
    candidate_ids: Sequence[int],
    weights: LlmWeights,
    io: GraphIO,
    numbers: LlmDtypes,
    data: ExternalData,
) -> ir.Model:
    """Build the graph; weights are given their place in `data`."""
    graph = GraphBuilder("llm", io, numbers.dtype, data, numbers.linear_formats)
    return _LlmGraph(llm, weights, graph, numbers).build(img_context_id, candidate_ids)


def inverse_frequencies(llm: LlmArchitecture) -> NDArray[np.float32]:
    """Rotary frequencies [head_dim/2], computed in float32 as the original does."""
    exponents = np.arange(0, llm.head_dim, 2).astype(np.float32) / np.float32(llm.head_dim)
    return (np.float32(1) / np.float32(llm.rope_base) ** exponents).astype(np.float32)


class _LlmGraph:
    """Shapes in comments: S new tokens, P cached, K scored; H hidden; the batch axis of 1 only around attention."""

    def __init__(self, llm: LlmArchitecture, weights: LlmWeights, graph: GraphBuilder, numbers: LlmDtypes) -> None:
        self._llm = llm
        self._table_dtype = numbers.table_dtype
        self._native_attention = numbers.native_attention
        self._weights = weights
        self._graph = graph
        self._batch_axis = graph.ints(0)
        self._cos, self._sin = self._rotation(graph.inputs["position_ids"])  # float32 [1, S, head_dim/2]

    def build(self, img_context_id: int, candidate_ids: Sequence[int]) -> ir.Model:
        graph, llm = self._graph, self._llm
        hidden = self._embed(img_context_id)  # float32 [S, H]
        new_rows: list[ir.Value] = []
        for layer in range(llm.layers):
            hidden, key, value = self._layer(hidden, layer, last=layer == llm.layers - 1)
            new_rows += [key, value]
        hidden = self._norm(hidden, self._weights.final_norm())  # float32 [K, H]
        head = self._weights.head().rows(np.array(candidate_ids, np.int64))  # [C, H]
        logits = graph.op("MatMul", hidden, graph.weight(head.transposed(), FLOAT32))
        return graph.finish([logits, *new_rows])

    def _rotation(self, position_ids: ir.Value) -> tuple[ir.Value, ir.Value]:
        graph = self._graph
        positions = graph.op("Cast", position_ids, to=ir.DataType.FLOAT.value)
        positions = graph.op("Unsqueeze", positions, graph.ints(0, 2))  # [1, S, 1]
        angles = graph.op("Mul", positions, graph.constant(inverse_frequencies(self._llm)[None, None]))
        return graph.op("Cos", angles), graph.op("Sin", angles)

    def _embed(self, img_context_id: int) -> ir.Value:
        """Token embeddings, with image rows in the places of the image-context tokens, in order."""
        graph = self._graph
        ids, rows = graph.inputs["input_ids"], graph.inputs["image_embeds"]
        embeddings = graph.weight(self._weights.embeddings(), self._table_dtype)
        tokens = graph.cast(graph.op("Gather", embeddings, ids), graph.dtype, self._table_dtype)  # [S, H]
        is_image = graph.op("Equal", ids, graph.constant(np.array(img_context_id, np.int64)))  # [S]
        flags = graph.op("Cast", is_image, to=ir.DataType.INT64.value)
        # Row n of the image belongs to the n-th context token; row 0 of the table stands in for all other tokens.
        numbers = graph.op("Mul", graph.op("CumSum", flags, graph.constant(np.array(0, np.int64))), flags)
        no_row = graph.constant(np.zeros((1, self._llm.hidden_size), graph.dtype))
        table = graph.op("Concat", no_row, rows, axis=0)  # [1 + R, H]
        image = graph.op("Gather", table, numbers)  # [S, H]
        return graph.to_float32(graph.op("Where", graph.op("Unsqueeze", is_image, graph.ints(1)), image, tokens))

    def _layer(self, hidden: ir.Value, layer: int, last: bool) -> tuple[ir.Value, ir.Value, ir.Value]:
        """float32 [S, H] -> float32 [S, H] (the last layer: [K, H]), new key rows, new value rows."""
        graph = self._graph
        normed = graph.to_weights(self._norm(hidden, self._weights.attention_norm(layer)))
        q, k, v = self._project(normed, layer, last)
        cos, sin, mask = self._cos, self._sin, graph.inputs["attention_mask"]
        k = self._rotated(k, self._llm.kv_heads, cos, sin)
        if last:
            scored = graph.inputs["score_positions"]
            hidden = graph.op("Gather", hidden, scored)
            mask = graph.op("Gather", mask, scored)  # [K, P+S]
            cos, sin = graph.op("Gather", cos, scored, axis=1), graph.op("Gather", sin, scored, axis=1)
        q = self._rotated(q, self._llm.heads, cos, sin)
        attended = self._attend(q, k, v, mask, layer)
        output = self._weights.attention_output(layer)
        hidden = graph.linear(attended, output, linear=linear_name(layer, "o"), residual=hidden)
        inner = graph.to_weights(self._norm(hidden, self._weights.mlp_norm(layer)))
        return self._mlp(inner, hidden, layer), k, v

    def _project(self, normed: ir.Value, layer: int, last: bool) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values; in the last layer queries of the scored rows only."""
        llm = self._llm
        q_weight, k_weight, v_weight = self._weights.q_k_v(layer)
        q_bias, k_bias, v_bias = self._weights.q_k_v_biases(layer) or (None, None, None)
        q_width, kv_width = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
        linear = linear_name(layer, "qkv")
        if not last:
            joined = self._joined(normed, [q_weight, k_weight, v_weight], [q_bias, k_bias, v_bias], linear)
            q, k, v = self._graph.split(joined, [q_width, kv_width, kv_width])
            return q, k, v
        k, v = self._graph.split(
            self._joined(normed, [k_weight, v_weight], [k_bias, v_bias], linear, "_kv"), [kv_width, kv_width]
        )
        scored = self._graph.op("Gather", normed, self._graph.inputs["score_positions"])
        return self._joined(scored, [q_weight], [q_bias], linear, "_q"), k, v

    def _joined(
        self, value: ir.Value, weights: Sequence[Weight], biases: Sequence[Weight | None], linear: str, part: str = ""
    ) -> ir.Value:
        """One matrix product for several Linears of the same input."""
        name = f"language_model.{linear}{part}"
        there = [bias for bias in biases if bias is not None]
        bias = stacked(there, f"{name}.bias") if there else None
        return self._graph.linear(value, stacked(weights, f"{name}.weight"), bias, linear)

    def _rotated(self, rows: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Half-split rotary embedding of [rows, heads*head_dim], in float32."""
        graph = self._graph
        batched = graph.op("Unsqueeze", graph.to_float32(rows), self._batch_axis)
        turned = graph.op("RotaryEmbedding", batched, cos, sin, num_heads=heads, interleaved=0)
        return graph.to_weights(graph.op("Squeeze", turned, self._batch_axis))

    def _attend(self, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value, layer: int) -> ir.Value:
        """Grouped-query attention of q [rows, heads*head_dim] over cached and new rows."""
        graph, llm = self._graph, self._llm
        past_keys, past_values = (graph.inputs[name.past] for name in layer_cache_names(layer))
        if self._native_attention:
            return graph.native(
                "Attention", q, k, v, past_keys, past_values, mask, heads=llm.heads, kv_heads=llm.kv_heads
            )
        keys = graph.op("Concat", past_keys, k, axis=0)  # [P+S, kv_heads*head_dim]
        values = graph.op("Concat", past_values, v, axis=0)
        q, keys, values = (graph.op("Unsqueeze", rows, self._batch_axis) for rows in (q, keys, values))
        attended = graph.op(
            "Attention", q, keys, values, mask, q_num_heads=llm.heads, kv_num_heads=llm.kv_heads,
            softmax_precision=ir.DataType.FLOAT.value,
        )  # fmt: skip
        return graph.op("Squeeze", attended, self._batch_axis)

    def _mlp(self, value: ir.Value, hidden: ir.Value, layer: int) -> ir.Value:
        """SwiGLU and its residual: hidden + down(silu(gate) * up)."""
        linear = linear_name(layer, "gate_up")
        inner = self._graph.gated(
            value, *self._weights.gate_and_up(layer), name=f"language_model.{linear}.weight", linear=linear
        )
        return self._graph.linear(inner, self._weights.down(layer), linear=linear_name(layer, "down"), residual=hidden)

    def _norm(self, value: ir.Value, weight: Weight) -> ir.Value:
        return self._graph.op(
            "RMSNormalization", value, self._graph.weight(weight, FLOAT32), axis=-1, epsilon=self._llm.norm_eps
        )
