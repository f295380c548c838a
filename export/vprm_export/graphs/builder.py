"""A thin layer over onnx_ir for building one graph: operators by name, constants, weights as external data."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vprm_export.external_data import ExternalData
from vprm_export.weights import Weight, stacked
from vprm_runtime import native
from vprm_runtime.bundle.graph_io import GraphIO, TensorSpec
from vprm_runtime.native import Activation

OPSET = 24
IR_VERSION = 11
LINEAR_KEY = "vprm.site"
_DTYPES = {
    "uint8": ir.DataType.UINT8,
    "int64": ir.DataType.INT64,
    "bool": ir.DataType.BOOL,
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
}
FLOAT32: np.dtype[Any] = np.dtype(np.float32)


class LinearFormat(Protocol):
    """How the product of a Linear is put into a graph: in floating point, or quantised."""

    def product(self, graph: "GraphBuilder", value: ir.Value, weight: Weight) -> ir.Value:
        """`value` [.., in] in the graph's dtype times a checkpoint's Linear [out, in]; [.., out]."""
        ...

    def plus_bias(self, graph: "GraphBuilder", product: ir.Value, bias: ir.Value) -> ir.Value:
        """The product [.., out] plus the Linear's bias [out]."""
        return graph.op("Add", product, bias)


@runtime_checkable
class FusedLinear(LinearFormat, Protocol):
    """A Linear that is one node with what follows it; float32 throughout."""

    def product(self, graph: "GraphBuilder", value: ir.Value, weight: Weight) -> ir.Value:
        """X W^T."""
        return self.fused(graph, value, weight)

    def fused(
        self,
        graph: "GraphBuilder",
        value: ir.Value,
        weight: Weight,
        bias: Weight | None = None,
        residual: ir.Value | None = None,
        activation: Activation = Activation.IDENTITY,
    ) -> ir.Value:
        """f(X W^T + b) + residual, which is [.., out]."""
        ...

    def gated(self, graph: "GraphBuilder", value: ir.Value, gate: Weight, up: Weight) -> ir.Value:
        """silu(X G^T) * X U^T."""
        ...


class FloatingPoint(LinearFormat):
    """A Linear in the graph's dtype."""

    def product(self, graph: "GraphBuilder", value: ir.Value, weight: Weight) -> ir.Value:
        """X W^T."""
        return graph.op("MatMul", value, graph.weight(weight.transposed()))


LinearFormats = Callable[[str], LinearFormat | None]  # by the Linear's name; None: floating point


class GraphBuilder:
    """Collects nodes and initializers of one graph whose inputs and outputs are given.

    `dtype` is the type of weights and matrix products; norms, softmax, rotations and the residual stream are float32.
    `linear_formats` says which Linears are quantised, and how.
    """

    def __init__(
        self,
        name: str,
        io: GraphIO,
        dtype: np.dtype[Any],
        data: ExternalData,
        linear_formats: LinearFormats = lambda linear: None,
    ) -> None:
        self._name = name
        self._io = io
        self._data = data
        self._tape = ir.tape.Tape()
        self._initializers: list[ir.Value] = []
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], ir.Value] = {}
        self._linear_formats = linear_formats
        self._opsets = {"": OPSET}
        self.dtype = dtype
        self.inputs = {spec.name: _value(spec) for spec in io.inputs}

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """One operator with one output."""
        return self._tape.op(op_type, inputs, attributes)

    def native(self, op_type: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        """One of the runtime's own operators."""
        self._opsets[native.DOMAIN] = 1
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        return self._tape.op(op_type, inputs, attributes, domain=native.DOMAIN)

    def split(self, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Split along the last axis."""
        return self._tape.op_multi_out("Split", [value, self.ints(*sizes)], {"axis": -1}, num_outputs=len(sizes))

    def constant(self, values: NDArray[Any]) -> ir.Value:
        """A small constant, stored inside the graph once however often it is used."""
        key = (values.tobytes(), str(values.dtype), values.shape)
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            tensor = ir.tensor(values, name=name)
            value = ir.Value(
                name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self._constants[key] = value
            self._initializers.append(value)
        return self._constants[key]

    def ints(self, *values: int) -> ir.Value:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def weight(self, weight: Weight, dtype: np.dtype[Any] | None = None) -> ir.Value:
        """A weight as external data; in the graph's dtype unless told otherwise."""
        value = self._data.add(weight, self.dtype if dtype is None else dtype)
        self._initializers.append(value)
        return value

    def stored(self, codes: Weight, dtype: ir.DataType) -> ir.Value:
        """Quantised codes as external data, stored as they come."""
        value = self._data.add_stored(codes, dtype)
        self._initializers.append(value)
        return value

    def cast(self, value: ir.Value, dtype: np.dtype[Any], source: np.dtype[Any]) -> ir.Value:
        """`value` of dtype `source` as `dtype`; no operator if they are equal."""
        return value if dtype == source else self.op("Cast", value, to=ir.DataType.from_numpy(dtype).value)

    def reshape(self, value: ir.Value, *shape: int) -> ir.Value:
        """Reshape; -1 and 0 as in ONNX."""
        return self.op("Reshape", value, self.ints(*shape))

    def to_weights(self, value: ir.Value) -> ir.Value:
        """float32 -> the graph's dtype, for a matrix product."""
        return self.cast(value, self.dtype, FLOAT32)

    def to_float32(self, value: ir.Value) -> ir.Value:
        """The graph's dtype -> float32, for the residual stream."""
        return self.cast(value, FLOAT32, self.dtype)

    def linear(
        self,
        value: ir.Value,
        weight: Weight,
        bias: Weight | None = None,
        linear: str | None = None,
        residual: ir.Value | None = None,
        gelu: bool = False,
    ) -> ir.Value:
        """`value` [N, in] in the graph's dtype times a checkpoint's Linear [out, in], plus its bias; [N, out].

        `linear` names the Linear for quantisation; without one it stays in floating point. `gelu`: GELU follows. With a
        `residual`, float32 [N, out], the result is float32 and has that added.
        """
        linear_format = self._format(linear)
        if isinstance(linear_format, FusedLinear):
            activation = Activation.GELU if gelu else Activation.IDENTITY
            result = linear_format.fused(self, value, weight, bias, residual, activation)
            _mark_linear(result, linear)
            return result
        result = linear_format.product(self, value, weight)
        _mark_linear(result, linear)
        if bias is not None:
            result = linear_format.plus_bias(self, result, self.weight(bias))
        if gelu:
            result = self.op("Gelu", result)
        return result if residual is None else self.op("Add", residual, self.to_float32(result))

    def gated(self, value: ir.Value, gate: Weight, up: Weight, name: str, linear: str) -> ir.Value:
        """silu(X G^T) * X U^T for Linears [out, in] of the same input, stored as `name`."""
        linear_format = self._format(linear)
        if isinstance(linear_format, FusedLinear):
            result = linear_format.gated(self, value, gate, up)
            _mark_linear(result, linear)
            return result
        joined = self.linear(value, stacked([gate, up], name), linear=linear)
        gates, values = self.split(joined, [gate.shape[0], up.shape[0]])
        return self.op("Mul", self.op("Mul", gates, self.op("Sigmoid", gates)), values)

    def is_fused(self, linear: str) -> bool:
        """Whether a Linear is one node with what follows them."""
        return isinstance(self._format(linear), FusedLinear)

    def _format(self, linear: str | None) -> LinearFormat:
        return (None if linear is None else self._linear_formats(linear)) or FloatingPoint()

    def finish(self, outputs: Sequence[ir.Value]) -> ir.Model:
        """The model; `outputs` in the order of the declared ones, whose names, types and shapes they take."""
        for value, spec in zip(outputs, self._io.outputs, strict=True):
            value.name = spec.name
            value.type = ir.TensorType(_DTYPES[spec.dtype])
            value.shape = ir.Shape(spec.shape)
        graph = ir.Graph(
            list(self.inputs.values()),
            outputs,
            nodes=self._tape.nodes,
            initializers=self._initializers,
            opset_imports=self._opsets,
            name=self._name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="vprm")


def _mark_linear(product: ir.Value, linear: str | None) -> None:
    """Note a Linear's name on the node that makes its product, for calibration to find it in a stored graph."""
    node = product.producer()
    if node is not None and linear is not None:
        node.metadata_props[LINEAR_KEY] = linear


def _value(spec: TensorSpec) -> ir.Value:
    return ir.Value(name=spec.name, shape=ir.Shape(spec.shape), type=ir.TensorType(_DTYPES[spec.dtype]))
