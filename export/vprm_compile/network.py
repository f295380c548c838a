"""From a bundle's ONNX graph to a TensorRT network, and what to say if the importer refuses a node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from vprm_runtime.errors import UnsupportedError

# What TensorRT's importer does not take and what becomes of it. Its fused attention kernels accumulate the softmax in
# float32 whatever is asked, so the attribute says nothing that they do not do.
_DROPPED_ATTRIBUTES = {"Attention": ("softmax_precision",)}
_RETARGET = "the bundle's graphs are laid out for ONNX Runtime; export again with  --target tensorrt"
_HINTS = {
    "MatMulInteger": _RETARGET,
    "QuantizeLinear": _RETARGET,  # with a zero point, as the CPU's integer products want it
    "MatMulNBits": _RETARGET,
    "GroupQueryAttention": _RETARGET,
    "Attention": "TensorRT takes one output, an explicit mask and float16 or bfloat16 inputs; export with this version",
}


def adapted_graph(path: Path) -> onnx.ModelProto:
    """The graph without its external weights, and without attributes that TensorRT's importer refuses."""
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        dropped = _DROPPED_ATTRIBUTES.get(node.op_type, ())
        kept = [attribute for attribute in node.attribute if attribute.name not in dropped]
        if len(kept) != len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
    return model


def imported_network(trt: Any, builder: Any, logger: Any, model: onnx.ModelProto, path: Path) -> Any:
    """A strongly typed network: TensorRT computes in the types that the graph names, and nowhere else.

    Raises UnsupportedError naming the node, its operator and what to change. The network refers to mapped weights of
    the parser, which is kept alive with it.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString(), path=str(path)):
        raise UnsupportedError(refusal(path.name, [parser.get_error(index) for index in range(parser.num_errors)]))
    return network, parser


def allow_decomposed_attention(trt: Any, network: Any) -> None:
    """Let the compiler make several kernels of attention if it has no fused one; if it has, it takes that."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # as NVIDIA's samples do: the bindings give the base class
            layer.attention.decomposable = True


def refusal(graph: str, errors: Sequence[Any]) -> str:
    """What to tell of the importer's errors: the first one with its node, and how many there are."""
    if not errors:
        return f"TensorRT cannot import {graph} and gives no reason: run  vprm inspect --verify  on the bundle"
    first = errors[0]
    operators = sorted({error.node_operator() for error in errors if error.node_operator()})
    hint = next((_HINTS[name] for name in operators if name in _HINTS), "export again with another --precision")
    return (
        f"TensorRT cannot import {graph}: node {first.node_name()!r} ({first.node_operator()}): {first.desc().strip()} "
        f"({len(errors)} such nodes, operators {', '.join(operators) or 'unknown'}). What to do: {hint}"
    )
