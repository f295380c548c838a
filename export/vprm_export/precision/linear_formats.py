"""How one Linear looks in a graph, for each way of quantising it. Standard operators only.

A format takes inputs X [.., in] in the graph's floating type and a weight [out, in], and gives X W^T [.., out].

TokenInt8 is the CPU's: ONNX Runtime runs MatMulInteger fast for uint8 inputs and int8 weights only (33 times as fast
as int8 x int8 on one AMX machine), hence the zero point of 128; the scales are multiplied with each other first because
then the whole tail fuses to its MatMulIntegerToFloat.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vprm_export.graphs.builder import FLOAT32, GraphBuilder, LinearFormat
from vprm_export.precision.gptq import TINY
from vprm_export.precision.quantizers import INT8_MAX, FloatArray, static_scale
from vprm_export.precision.recipe import Recipe, group_size
from vprm_export.precision.stored import Layout, QuantizedWeight
from vprm_export.weights import Weight

_ZERO_POINT = 128
_CODE_TYPES = {
    "int8_channel": ir.DataType.INT8,
    "int8_group": ir.DataType.INT8,
    "int4_group": ir.DataType.INT4,
    "fp8_tensor": ir.DataType.FLOAT8E4M3FN,
}


@dataclass(frozen=True)
class HalfStored(LinearFormat):
    """A Linear kept in higher precision: stored as float16, multiplied in the graph's floating type."""

    def product(self, graph: GraphBuilder, value: ir.Value, weight: Weight) -> ir.Value:
        """X W^T."""
        stored = graph.weight(weight.transposed(), np.dtype(np.float16))
        return graph.op("MatMul", value, graph.cast(stored, graph.dtype, np.dtype(np.float16)))


@dataclass(frozen=True)
class TokenInt8(LinearFormat):
    """int8 weights with a scale per channel, inputs rounded to int8 with a scale per token when the graph runs."""

    def product(self, graph: GraphBuilder, value: ir.Value, weight: Weight) -> ir.Value:
        """X W^T; X float32."""
        stored = QuantizedWeight(weight, Layout("int8_channel", FLOAT32))
        codes = graph.stored(stored.codes, ir.DataType.INT8)
        channel_scales = graph.weight(stored.scales, FLOAT32)  # [out]
        axis = graph.ints(-1)
        highest = graph.op("ReduceMax", value, axis, keepdims=1)
        lowest = graph.op("ReduceMin", value, axis, keepdims=1)
        absmax = graph.op("Max", highest, graph.op("Neg", lowest), graph.constant(np.array(TINY, np.float32)))
        token_scales = graph.op("Mul", absmax, graph.constant(np.array(1 / INT8_MAX, np.float32)))  # [.., 1]
        zero_point = graph.constant(np.array(_ZERO_POINT, np.uint8))
        rounded = graph.op(
            "QuantizeLinear", graph.op("Div", value, token_scales), graph.constant(np.array(1, np.float32)), zero_point
        )
        sums = graph.op("Cast", graph.op("MatMulInteger", rounded, codes, zero_point), to=ir.DataType.FLOAT.value)
        return graph.op("Mul", sums, graph.op("Mul", token_scales, channel_scales))

    def plus_bias(self, graph: GraphBuilder, product: ir.Value, bias: ir.Value) -> ir.Value:
        """X W^T + b, not as an Add: that would fuse into MatMulIntegerToFloat, which adds b before it multiplies by the
        tokens' scales (ONNX Runtime 1.32; docs/log.md)."""
        return graph.op("Sub", product, graph.op("Neg", bias))


@dataclass(frozen=True)
class Dequantized(LinearFormat):
    """Weight-only: codes and DequantizeLinear in front of the product; engines fold it into their kernels."""

    recipe: Recipe
    hessian: Callable[[], FloatArray | None] = lambda: None  # [blocks, b, b], see `quantized_weight`

    def product(self, graph: GraphBuilder, value: ir.Value, weight: Weight) -> ir.Value:
        """X W^T."""
        return graph.op("MatMul", value, _dequantized(graph, self.recipe, weight, self.hessian))


@dataclass(frozen=True)
class StaticQdq(LinearFormat):
    """Weights as codes, inputs through QuantizeLinear and DequantizeLinear with one constant scale."""

    recipe: Recipe
    input_absmax: float
    hessian: Callable[[], FloatArray | None] = lambda: None  # as in Dequantised

    def product(self, graph: GraphBuilder, value: ir.Value, weight: Weight) -> ir.Value:
        """X W^T."""
        kind = self.recipe.activations
        scale = graph.constant(np.array(static_scale(self.input_absmax, kind, graph.dtype), graph.dtype))
        code_type = ir.DataType.FLOAT8E4M3FN if kind == "fp8_static" else ir.DataType.INT8
        zero = graph.constant(np.zeros((), code_type.numpy()))
        codes = graph.op("QuantizeLinear", value, scale, zero)
        inputs = graph.op("DequantizeLinear", codes, scale, zero)
        return graph.op("MatMul", inputs, _dequantized(graph, self.recipe, weight, self.hessian))


@dataclass(frozen=True)
class TokenQdq(LinearFormat):
    """A scale per token out of QuantizeLinear with a constant one: inputs are divided by their token's absmax first.

    TensorRT takes constant scales only; the product is multiplied by the absmax again, so it runs in int8 all the same.
    """

    recipe: Recipe

    def product(self, graph: GraphBuilder, value: ir.Value, weight: Weight) -> ir.Value:
        """X W^T."""
        smallest = np.array(np.finfo(graph.dtype).smallest_normal, graph.dtype)
        highest = graph.op("ReduceMax", graph.op("Abs", value), graph.ints(-1), keepdims=1)
        absmax = graph.op("Max", highest, graph.constant(smallest))  # [.., 1]
        scale = graph.constant(np.array(static_scale(1.0, "int8_static", graph.dtype), graph.dtype))
        zero = graph.constant(np.zeros((), np.int8))
        codes = graph.op("QuantizeLinear", graph.op("Div", value, absmax), scale, zero)
        inputs = graph.op("DequantizeLinear", codes, scale, zero)
        product = graph.op("MatMul", inputs, _dequantized(graph, self.recipe, weight, lambda: None))
        return graph.op("Mul", product, absmax)


def _dequantized(
    graph: GraphBuilder, recipe: Recipe, weight: Weight, hessian: Callable[[], FloatArray | None]
) -> ir.Value:
    """W^T [in, out] in the graph's dtype, from stored codes and scales."""
    stored = QuantizedWeight(weight, Layout(recipe.weights, graph.dtype, hessian))
    codes = graph.stored(stored.codes, _CODE_TYPES[recipe.weights])
    scales = graph.weight(stored.scales)
    if recipe.weights == "fp8_tensor":
        return graph.op("DequantizeLinear", codes, scales)
    if recipe.weights == "int8_channel":
        return graph.op("DequantizeLinear", codes, scales, axis=1)
    return graph.op("DequantizeLinear", codes, scales, axis=0, block_size=group_size(weight.shape[1]))
