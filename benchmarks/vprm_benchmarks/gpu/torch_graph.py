"""Run a bundle's ONNX graph node by node with PyTorch's kernels, on any of PyTorch's devices.

For measurements where neither TensorRT nor ONNX Runtime can use the device: the graph, the cache and the packing are
this package's, the kernels are not, and a report has to say so. It is also a third implementation of the graphs, to
which the others can be compared. Operators are those that the exporter writes; any other is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir
import torch
from torch.nn import functional

from vprm_benchmarks.gpu.torch_fused import gated, rotated
from vprm_benchmarks.gpu.torch_products import Quantised, dequantised, product, quantised

Value = Any  # a torch.Tensor, or a Quantised that only a product or `dequantised` takes
_DTYPES = {
    onnx_ir.DataType.FLOAT: torch.float32,
    onnx_ir.DataType.FLOAT16: torch.float16,
    onnx_ir.DataType.INT64: torch.int64,
    onnx_ir.DataType.INT8: torch.int8,
    onnx_ir.DataType.UINT8: torch.uint8,
    onnx_ir.DataType.BOOL: torch.bool,
    onnx_ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
}


class TorchGraph:
    """One graph with its weights on a device. Raises ValueError on an operator or type that is not known here."""

    def __init__(self, path: Path, device: str) -> None:
        graph = onnx_ir.load(path).graph
        unknown = sorted({node.op_type for node in graph if node.op_type not in _OPERATORS})
        if unknown:
            raise ValueError(
                f"{path.name} has operators that PyTorch is not told to run here: {', '.join(unknown)}; "
                "known are those of fp32 and fp16 bundles, and of int8 and fp8 ones with --target tensorrt"
            )
        self.device = device
        self._stored: dict[str, Value] = {name: _tensor(value, device) for name, value in graph.initializers.items()}
        self._nodes = _with_gates([_Node(node) for node in graph])
        self.outputs = [_name(value) for value in graph.outputs]
        last_use = {name: number for number, node in enumerate(self._nodes) for name in node.inputs if name}
        for name in self.outputs:
            last_use.pop(name, None)
        for name, number in last_use.items():
            if name not in self._stored:
                self._nodes[number].done.append(name)
        self._fold_weights()

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All outputs by name, on the device; work may still be queued."""
        values: dict[str, Value] = {**self._stored, **inputs}
        scope = _Scope()
        for node in self._nodes:
            arguments = [values[name] if name else None for name in node.inputs]
            results = node.run(scope, arguments, node.attributes)
            values.update(zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True))
            for name in node.done:
                values.pop(name, None)
        return {name: values[name] for name in self.outputs}

    @torch.inference_mode()
    def _fold_weights(self) -> None:
        """Run DequantizeLinear of stored weights once; what it makes is a view of the codes and their scales."""
        kept = []
        for node in self._nodes:
            if node.kind == "DequantizeLinear" and all(name in self._stored for name in node.inputs if name):
                arguments = [self._stored[name] if name else None for name in node.inputs]
                self._stored[node.outputs[0]] = _dequantise(_Scope(), arguments, node.attributes).for_products()
            else:
                kept.append(node)
        self._nodes = kept


class _Node:
    """One operator: what it reads and writes, and which values nobody reads afterwards."""

    def __init__(self, node: onnx_ir.Node) -> None:
        self.kind = node.op_type
        self.inputs = [_name(value) if value is not None else "" for value in node.inputs]
        self.outputs = [_name(value) for value in node.outputs]
        self.attributes: dict[str, Any] = {name: attribute.value for name, attribute in node.attributes.items()}
        self.run = _OPERATORS[node.op_type]
        self.done: list[str] = []


def _with_gates(nodes: Sequence[_Node]) -> list[_Node]:
    """x * Sigmoid(x) * y, where nobody else reads what is in between, as one operator: a graph engine would fuse it."""
    readers = Counter(name for node in nodes for name in node.inputs)
    made_by = {name: node for node in nodes for name in node.outputs if readers[name] == 1}
    fused: set[str] = set()
    for node in nodes:
        for silu, up in (node.inputs, node.inputs[::-1]) if node.kind == "Mul" else ():
            inner = made_by.get(silu)
            if inner is None or inner.kind != "Mul":
                continue
            x, gate = inner.inputs
            sigmoid = made_by.get(gate)
            if sigmoid is not None and sigmoid.kind == "Sigmoid" and sigmoid.inputs == [x]:
                fused |= {silu, gate}
                node.inputs, node.run = [x, up], _elementwise(gated)
                break
    return [node for node in nodes if node.outputs[0] not in fused]


class _Scope:
    """What nodes of one run share: a mask is looked at once, not in every layer."""

    def __init__(self) -> None:
        self.masks: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def bias(self, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        """Zeros where `mask` [S, P+S] is True and -inf elsewhere; None where it is simply causal, from position 0."""
        if id(mask) not in self.masks:
            rows, columns = mask.shape
            causal = rows == columns and bool(torch.equal(mask, torch.ones_like(mask).tril()))
            bias = None if causal else torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            if bias is not None:
                bias.masked_fill_(~mask, float("-inf"))
            self.masks[id(mask)] = (mask, bias)  # the mask is kept: its id is the key
        return self.masks[id(mask)][1]


def _name(value: onnx_ir.Value) -> str:
    if value.name is None:
        raise ValueError("a value of the graph has no name: export the bundle again")
    return value.name


def _tensor(value: onnx_ir.Value, device: str) -> torch.Tensor:
    """A stored tensor on the device; int64 ones, which are sizes, axes and single ids, stay on the host."""
    stored = value.const_value
    if stored is None or stored.dtype not in _DTYPES:
        raise ValueError(f"{value.name} is stored as {stored and stored.dtype}, which is not run here")
    array = np.array(stored.numpy())  # the file is mapped read-only
    if array.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(array.view(np.uint8)).view(torch.float8_e4m3fn).to(device)
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == torch.int64 else tensor.to(device)


def _ints(tensor: torch.Tensor) -> list[int]:
    return [int(one) for one in tensor.reshape(-1).tolist()]


def _attention(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    """q [B, S, heads*D], k and v [B, T, kv_heads*D], mask [S, T] or none -> [B, S, heads*D]."""
    heads, kv_heads = int(attributes["q_num_heads"]), int(attributes["kv_num_heads"])
    q, k, v = (
        tensor.unflatten(-1, (count, -1)).transpose(1, 2)
        for tensor, count in zip(inputs[:3], (heads, kv_heads, kv_heads), strict=True)
    )
    if kv_heads != heads:
        k, v = (tensor.repeat_interleave(heads // kv_heads, dim=1) for tensor in (k, v))
    mask = inputs[3] if len(inputs) > 3 else None
    bias = None if mask is None else scope.bias(mask, q.dtype)
    causal = mask is not None and bias is None
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    return out.transpose(1, 2).flatten(-2)


def _rotary(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    """x [B, S, heads*D], cos and sin [B, S, D/2] -> x with both halves of every head rotated."""
    x = inputs[0].unflatten(-1, (int(attributes["num_heads"]), -1))
    cos, sin = (tensor.unsqueeze(2) for tensor in inputs[1:3])
    return rotated(x, cos, sin).flatten(-2)


def _slice(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    starts, ends, axes = (_ints(tensor) for tensor in inputs[1:4])
    index = [slice(None)] * inputs[0].dim()
    for start, end, axis in zip(starts, ends, axes, strict=True):
        index[axis] = slice(start, end)
    return inputs[0][tuple(index)]


def _unsqueeze(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    result, rank = inputs[0], inputs[0].dim() + inputs[1].numel()
    for axis in sorted(axis % rank for axis in _ints(inputs[1])):
        result = result.unsqueeze(axis)
    return result


def _gather(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    data, index = inputs[0], inputs[1].to(inputs[0].device)
    axis = int(attributes.get("axis", 0)) % data.dim()
    picked = data.index_select(axis, index.reshape(-1))
    return picked.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])


def _shape(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    return torch.tensor(inputs[0].shape)[attributes.get("start", 0) : attributes.get("end")]


def _reshape(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    sizes = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(_ints(inputs[1]))]
    return inputs[0].reshape(sizes)


def _expand(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    return inputs[0].expand(np.broadcast_shapes(tuple(inputs[0].shape), tuple(_ints(inputs[1]))))


def _norm_inputs(inputs: Sequence[Value], attributes: Mapping[str, Any]) -> tuple[list[int], list[Value], float]:
    axis = int(attributes.get("axis", -1))
    return list(inputs[0].shape[axis:]), [*inputs[1:], None, None], float(attributes.get("epsilon", 1e-5))


def _layer_norm(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    sizes, (weight, bias, *_), epsilon = _norm_inputs(inputs, attributes)
    return functional.layer_norm(inputs[0], sizes, weight, bias, epsilon)


def _rms_norm(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    sizes, (weight, *_), epsilon = _norm_inputs(inputs, attributes)
    return functional.rms_norm(inputs[0], sizes, weight, epsilon)


def _cast(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    return dequantised(inputs[0]).to(_DTYPES[onnx_ir.DataType(attributes["to"])])


def _concat(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    return torch.cat(list(inputs), dim=int(attributes["axis"]))


def _split(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> tuple[Value, ...]:
    return tuple(inputs[0].split(_ints(inputs[1]), dim=int(attributes.get("axis", 0))))


def _dequantise(scope: _Scope, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Quantised:
    if attributes.get("block_size"):
        raise ValueError("weights quantised in blocks are not run here: use int8 or fp8, or fp16")
    return Quantised(inputs[0], inputs[1], int(attributes.get("axis", 1)))


def _elementwise(function: Callable[..., torch.Tensor]) -> Operator:
    return lambda scope, inputs, attributes: function(*(dequantised(one) for one in inputs))


Operator = Callable[[_Scope, Sequence[Value], Mapping[str, Any]], Any]
_OPERATORS: dict[str, Operator] = {
    "Abs": _elementwise(torch.abs),
    "Add": _elementwise(torch.add),
    "Attention": _attention,
    "Cast": _cast,
    "Concat": _concat,
    "Cos": _elementwise(torch.cos),
    "CumSum": lambda scope, inputs, attributes: inputs[0].cumsum(int(inputs[1])),
    "DequantizeLinear": _dequantise,
    "Div": _elementwise(torch.div),
    "Equal": _elementwise(torch.eq),
    "Expand": _expand,
    "Gather": _gather,
    "Gelu": _elementwise(functional.gelu),
    "LayerNormalization": _layer_norm,
    "MatMul": lambda scope, inputs, attributes: product(inputs[0], inputs[1]),
    "Max": _elementwise(torch.maximum),
    "Mul": _elementwise(torch.mul),
    "QuantizeLinear": lambda scope, inputs, attributes: quantised(dequantised(inputs[0]), inputs[1], inputs[2].dtype),
    "RMSNormalization": _rms_norm,
    "ReduceMax": lambda scope, inputs, attributes: inputs[0].amax(
        _ints(inputs[1]), bool(attributes.get("keepdims", 1))
    ),
    "Reshape": _reshape,
    "RotaryEmbedding": _rotary,
    "Shape": _shape,
    "Sigmoid": _elementwise(torch.sigmoid),
    "Sin": _elementwise(torch.sin),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": lambda scope, inputs, attributes: inputs[0].squeeze(_ints(inputs[1])),
    "Sub": _elementwise(torch.sub),
    "Transpose": lambda scope, inputs, attributes: inputs[0].permute(*attributes["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(torch.where),
}
