"""An LLM graph run in NumPy and ml_dtypes, operator by operator: the oracle for what quantised graphs compute.

It shares nothing with ONNX Runtime but the file: each operator that the exporter uses is written from its text in the
ONNX operator set (onnx/onnx, docs/Operators.md, opset 24), and E4M3 comes from ml_dtypes. Products of float16 graphs
are summed in float32 and rounded once. Slow: for checks on small models.

| checked against it  | how                                                                    |
|---------------------|------------------------------------------------------------------------|
| a bundle's scores   | `vprm quality BUNDLE --against BUNDLE --emulate`                       |
| fp8, int8, fp32     | tests/calibration/test_numpy_engine.py                                 |
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vprm_export.precision.quantizers import fp8_codes
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.graph_io import cache_names
from vprm_runtime.engines.base import Block, Engine, EngineProxy, KVCache, check_image_rows
from vprm_runtime.engines.host.cache import HostCache
from vprm_runtime.errors import UnsupportedError

Array = NDArray[Any]
Operator = Callable[[Sequence[Any], Mapping[str, Any]], Any]  # inputs (None where left out), attributes -> output(s)


class NumpyEngine(EngineProxy):
    """Another engine whose LLM graph is run in NumPy; pictures are encoded by that engine."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        super().__init__(engine)
        self._model, self._image_token = bundle.manifest.model, bundle.manifest.tokens.img_context
        self._dtype = np.dtype(bundle.manifest.graphs.llm.io_dtype)
        self._graph = NumpyGraph(bundle.llm_path)

    @property
    def description(self) -> str:
        """What runs where."""
        return f"LLM in NumPy {np.__version__}, vision as {self._engine.description}"

    def new_cache(self, capacity_tokens: int) -> HostCache:
        """An empty cache for about `capacity_tokens` rows."""
        return HostCache(self._model.layers, self._model.kv_width, self._dtype, capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Logits float32 [K, C]; the block's rows are appended to the cache."""
        check_image_rows(block, self._image_token, self._dtype)
        if not isinstance(cache, HostCache):
            raise TypeError(f"NumpyEngine needs a cache from its own new_cache, got {type(cache).__name__}")
        past, new = cache.length_tokens, len(block.input_ids)
        cache.reserve(new)
        names = list(cache_names(self._model.layers))
        feeds = block.host_inputs() | {name.past: cache.rows[name.layer, name.part, :past] for name in names}
        logits, *rows = self._graph.run(feeds)
        for name, values in zip(names, rows, strict=True):
            cache.rows[name.layer, name.part, past : past + new] = values
        cache.advance(new)
        result: NDArray[np.float32] = logits[: len(block.score_positions)]
        return result


class NumpyGraph:
    """An ONNX graph of the exporter's operators. Raises UnsupportedError where it has another one."""

    def __init__(self, path: Path) -> None:
        graph = ir.load(path).graph
        self._outputs = [str(value.name) for value in graph.outputs]
        self._values: dict[str, Array] = {}
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                self._values[name] = value.const_value.numpy()
        self._nodes = []
        for node in graph:
            if node.op_type not in _OPERATORS:
                raise UnsupportedError(f"{path} has the operator {node.op_type}, which is not emulated in NumPy")
            if all(value is not None and value.name in self._values for value in node.inputs):
                run_node(node, self._values)  # weights are dequantised once
            else:
                self._nodes.append(node)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The graph's outputs, in order."""
        values = {**self._values, **feeds}
        for node in self._nodes:
            run_node(node, values)
        return [values[name] for name in self._outputs]


def run_node(node: ir.Node, values: dict[str, Array]) -> None:
    """Compute a node's outputs from `values` and put them there."""
    inputs = [None if value is None else values[str(value.name)] for value in node.inputs]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    results = _OPERATORS[node.op_type](inputs, attributes)
    for value, result in zip(node.outputs, results if isinstance(results, list) else [results], strict=True):
        values[str(value.name)] = result


def _cast(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    result: Array = inputs[0].astype(ir.DataType(attributes["to"]).numpy())
    return result


def _split(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> list[Array]:
    return list(np.split(inputs[0], np.cumsum(inputs[1])[:-1], attributes["axis"]))


def _matmul(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    left, right = inputs
    result: Array = (left.astype(np.float32) @ right.astype(np.float32)).astype(left.dtype)
    return result


def _matmul_integer(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    codes, weight, zero_point = inputs
    # Sums of products of 8-bit codes are whole numbers below 2^53: float64 holds them exactly, and its product is fast.
    exact = (codes.astype(np.float64) - zero_point.astype(np.float64)) @ weight.astype(np.float64)
    result: Array = exact.astype(np.int32)
    return result


def _rms_normalization(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    values = inputs[0].astype(np.float32)
    mean_square = np.mean(np.square(values), axis=attributes["axis"], keepdims=True, dtype=np.float32)
    result = (values / np.sqrt(mean_square + np.float32(attributes["epsilon"]))).astype(inputs[0].dtype)
    normed: Array = result * inputs[1]
    return normed


def _rotary_embedding(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    """X [1, S, heads*D], cos and sin [1, S, D/2]; the first half of each head is turned with the second."""
    values, cos, sin = inputs
    first, second = np.split(values.reshape(*values.shape[:2], attributes["num_heads"], -1), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    result: Array = turned.reshape(values.shape)
    return result


def _attention(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    """q [1, S, heads*D], k and v [1, T, kv_heads*D], mask bool [S, T]; softmax in float32."""
    query, key, value, mask = inputs
    heads, kv_heads = attributes["q_num_heads"], attributes["kv_num_heads"]
    head_dim = query.shape[-1] // heads
    q = query[0].reshape(-1, kv_heads, heads // kv_heads, head_dim).astype(np.float32)
    k, v = (rows[0].reshape(-1, kv_heads, head_dim).astype(np.float32) for rows in (key, value))
    scores = np.einsum("sgrd,tgd->grst", q, k, optimize=True) / np.float32(np.sqrt(head_dim))
    scores = np.where(mask, scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    attended = np.einsum("grst,tgd->sgrd", weights, v, optimize=True)
    result: Array = attended.reshape(1, -1, heads * head_dim).astype(query.dtype)
    return result


def _quantize_linear(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    """One scale for the whole tensor; rounding is to nearest, ties to even, and saturates."""
    values, scale, zero_point = inputs
    if not np.issubdtype(zero_point.dtype, np.integer):
        return fp8_codes(values.astype(np.float32), scale.astype(np.float32))
    limits = np.iinfo(zero_point.dtype)
    codes = np.rint(values.astype(np.float32) / scale.astype(np.float32)) + zero_point.astype(np.float32)
    result: Array = np.clip(codes, limits.min, limits.max).astype(zero_point.dtype)
    return result


def _dequantize_linear(inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    """A scale for the whole tensor, a scale a channel of `axis`, or one for each `block_size` along it."""
    codes, *scale_and_zero = inputs

    def spread(values: Array) -> Array:
        values = values.astype(np.float32)
        if values.ndim == 1:
            return np.expand_dims(values, [axis for axis in range(codes.ndim) if axis != attributes["axis"]])
        if values.ndim > 1:
            return np.repeat(values, attributes["block_size"], axis=attributes["axis"])
        return values

    scale, *zero = [spread(values) for values in scale_and_zero]
    values = codes.astype(np.float32) - zero[0] if zero else codes.astype(np.float32)
    result: Array = (values * scale).astype(inputs[1].dtype)
    return result


_OPERATORS: dict[str, Operator] = {
    "Abs": lambda inputs, attributes: np.abs(inputs[0]),
    "Add": lambda inputs, attributes: inputs[0] + inputs[1],
    "Attention": _attention,
    "Cast": _cast,
    "Concat": lambda inputs, attributes: np.concatenate(inputs, attributes["axis"]),
    "Cos": lambda inputs, attributes: np.cos(inputs[0]),
    "CumSum": lambda inputs, attributes: np.cumsum(inputs[0], axis=int(inputs[1])),
    "DequantizeLinear": _dequantize_linear,
    "Div": lambda inputs, attributes: inputs[0] / inputs[1],
    "Equal": lambda inputs, attributes: inputs[0] == inputs[1],
    "Gather": lambda inputs, attributes: np.take(inputs[0], inputs[1], attributes.get("axis", 0)),
    "MatMul": _matmul,
    "MatMulInteger": _matmul_integer,
    "Max": lambda inputs, attributes: np.maximum.reduce(np.broadcast_arrays(*inputs)),
    "Mul": lambda inputs, attributes: inputs[0] * inputs[1],
    "Neg": lambda inputs, attributes: -inputs[0],
    "QuantizeLinear": _quantize_linear,
    "RMSNormalization": _rms_normalization,
    "ReduceMax": lambda inputs, attributes: inputs[0].max(tuple(inputs[1]), keepdims=bool(attributes["keepdims"])),
    "ReduceMin": lambda inputs, attributes: inputs[0].min(tuple(inputs[1]), keepdims=bool(attributes["keepdims"])),
    "RotaryEmbedding": _rotary_embedding,
    "Sigmoid": lambda inputs, attributes: (1 / (1 + np.exp(-inputs[0].astype(np.float32)))).astype(inputs[0].dtype),
    "Sin": lambda inputs, attributes: np.sin(inputs[0]),
    "Split": _split,
    "Squeeze": lambda inputs, attributes: np.squeeze(inputs[0], tuple(inputs[1])),
    "Sub": lambda inputs, attributes: inputs[0] - inputs[1],
    "Unsqueeze": lambda inputs, attributes: np.expand_dims(inputs[0], tuple(inputs[1])),
    "Where": lambda inputs, attributes: np.where(*inputs),
}
