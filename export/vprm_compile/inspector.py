"""The same question as `engine_check`, asked of TensorRT's own engines, whose files hold no readable program.

The engine inspector lists the compiled layers as JSON; a driver is needed, which is there if TensorRT builds. Its
layers become the kernels that `engine_check.compare` takes. Source: NVIDIA, TensorRT 11.4, "Engine Inspector" and
"Migrating IEngineInspector Usage from TensorRT 10.x to 11.x" (a tensor's type is in `Format/Datatype`, since 11 in
`DataType`). The listing need not name every node, so a node that it leaves out is unknown, not wrong.
"""

import json
import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from vprm_compile.engine_check import Kernel, attention_nodes, compare, products
from vprm_runtime.engines.cuda.tensorrt.engine_file import CompiledCheck

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_PRODUCT = re.compile(r"gemm|matmul|matrix_multiply|fc", re.IGNORECASE)
_TYPES = (  # in this order: a longer word before one that it contains
    (re.compile(r"bf16|bfloat16", re.IGNORECASE), "bf16"),
    (re.compile(r"fp8|e4m3", re.IGNORECASE), "fp8_e4m3"),
    (re.compile(r"int4", re.IGNORECASE), "int4"),
    (re.compile(r"int8", re.IGNORECASE), "int8"),
    (re.compile(r"half|fp16|float16", re.IGNORECASE), "half"),
    (re.compile(r"float|fp32", re.IGNORECASE), "float"),
)


def check_by_inspector(trt: Any, logger: Any, path: Path, model: onnx.ModelProto) -> CompiledCheck:
    """Load an engine file on the device and compare its layers with the graph that it was built from.

    The inspector's text is kept beside the engine, as `<graph>.layers.json`. `read` is False if the engine cannot
    be loaded or the text names no node of the graph.
    """
    attention, wanted = attention_nodes(model), products(model)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return compare((), attention, wanted)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    path.with_suffix(".layers.json").write_text(text, "utf-8")
    return compare(inspected_kernels(text), attention, wanted, whole=False)


def inspected_kernels(text: str) -> list[Kernel]:
    """Kernels of the inspector's JSON text that name nodes of the graph; none if it is not such a text."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []
    described = [layer for layer in layers if isinstance(layer, dict)]  # names alone at a lower verbosity
    return [kernel for kernel in map(_kernel, described) if kernel.nodes]


def _kernel(layer: Mapping[str, Any]) -> Kernel:
    kind, name = str(layer.get("LayerType", "")), f"{layer.get('Name', '')} {layer.get('TacticName', '')}"
    inputs: Sequence[Mapping[str, Any]] = layer.get("Inputs") or ()
    return Kernel(
        kind="fully_connected" if _PRODUCT.search(kind) else "runtime_fusion",
        name=f"{kind} {name}".strip(),
        operand_types=tuple(_type(tensor) for tensor in inputs),
        nodes=tuple(_NODE.findall(str(layer.get("Metadata", "")))),
    )


def _type(tensor: Mapping[str, Any]) -> str:
    words = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "")
    return next((name for pattern, name in _TYPES if pattern.search(words)), "")
