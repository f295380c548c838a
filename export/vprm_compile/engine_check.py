"""What a compiled engine does with the costly nodes: is attention fused, are quantised products really quantised?

TensorRT-RTX's engine files hold the compiled program as text: a line for each tensor with its type, and a line for
each kernel with its operands and the ONNX nodes that it computes. A strongly typed build fails at first if attention
has no fused kernel (the importer leaves it indecomposable); quantised products fall back silently, which only the
operands' types show. Needs no device.
"""

import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from vprm_runtime.engines.cuda.tensorrt.engine_file import CompiledCheck

_KERNELS = (b"fully_connected={ ", b"function={ ", b"runtime_fusion={ ")
_MAX_LINE_BYTES = 1 << 20
_NAME = re.compile(rb' name="([^"]*)"')
_TYPE = re.compile(rb" type=(\w+)")
_LAYERS = re.compile(rb' layers="([^"]*)"')
_NODE = re.compile(rb"\[ONNX Layer: ([^\]]*)\]")
_INPUTS = re.compile(rb" input(?:_args)?=\{ ?([^}]*)\}")
_QUOTED = re.compile(rb'"([^"]*)"')
_FUSED_ATTENTION = re.compile(rb"mha|attention|flash", re.IGNORECASE)
_BITS = {"int4": 4, "fp4_e2m1": 4, "int8": 8, "fp8_e4m3": 8, "half": 16, "bf16": 16, "float": 32}
_ONNX_TYPES: dict[int, str] = {
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.FLOAT8E4M3FN: "fp8_e4m3",
    onnx.TensorProto.FLOAT16: "half",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.FLOAT: "float",
}
_PASSED_THROUGH = ("Transpose", "Reshape", "Cast", "Mul", "Unsqueeze", "Squeeze")


@dataclass(frozen=True)
class Kernel:
    """One kernel of the compiled program: its kind and name, types of its operands ("" unknown), its ONNX nodes."""

    kind: str
    name: str
    operand_types: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Product:
    """A matrix product of the graph with a stored weight, and the operand types that the graph asks for."""

    node: str
    activation: str
    weight: str


def check_engine_file(path: Path, model: onnx.ModelProto) -> CompiledCheck:
    """Compare an engine file with the graph that it was built from."""
    kernels = read_kernels(path)
    return compare(kernels, attention_nodes(model), products(model))


def compare(
    kernels: Sequence[Kernel], attention: Sequence[str], wanted: Sequence[Product], *, whole: bool = True
) -> CompiledCheck:
    """What the kernels do with the given nodes. `whole`: they are the whole program, so that a node which none of them
    names is a problem; otherwise it is only counted as unknown."""
    if not kernels:
        return CompiledCheck(False, len(attention), 0, {}, ())
    fused = {
        node for kernel in kernels if _FUSED_ATTENTION.search(kernel.name.encode()) for node in kernel.nodes
    }  # a fused kernel names the attention node alone
    named = {node for kernel in kernels for node in kernel.nodes}
    problems = [
        f"{node}: attention is not in a fused kernel"
        for node in attention
        if node not in fused and (whole or node in named)
    ]
    found: Counter[str] = Counter()
    for product in wanted:
        pair = _narrowest_pair(product.node, kernels)
        found[f"{pair[0]} x {pair[1]}"] += 1
        asked = (product.activation, product.weight)
        if not whole and "unknown" in pair:
            continue
        if _bits(pair[0]) > _bits(asked[0]) or _bits(pair[1]) > _bits(asked[1]):
            problems.append(
                f"{product.node}: the graph asks for {' x '.join(asked)}, the engine multiplies {' x '.join(pair)}"
            )
    return CompiledCheck(
        True, len(attention), sum(node in fused for node in attention), dict(sorted(found.items())), tuple(problems)
    )


def attention_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the graph's attention nodes."""
    return [node.name for node in model.graph.node if node.op_type == "Attention"]


def products(model: onnx.ModelProto) -> list[Product]:
    """The graph's matrix products with stored weights; operand types after a DequantizeLinear are its input's."""
    graph = model.graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        if node.op_type != "MatMul":
            continue
        weight = _source_type(node.input[1], stored, made_by)
        if weight is None:
            continue
        maker = made_by.get(node.input[0])
        activation = None
        if maker is not None and maker.op_type == "DequantizeLinear":
            quantizer = made_by.get(maker.input[0])
            zero = quantizer.input[2] if quantizer is not None and len(quantizer.input) > 2 else ""
            activation = _ONNX_TYPES.get(stored.get(zero, onnx.TensorProto.INT8))
        found.append(Product(node.name, activation or _computed_type(node.input[1], stored, made_by), weight))
    return found


def read_kernels(path: Path) -> list[Kernel]:
    """The compiled program's kernels; an empty list if the file holds no readable program."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        types = {}
        for line in _lines(plan, b"tensor={ "):
            name, kind = _NAME.search(line), _TYPE.search(line)
            if name and kind:
                types[name.group(1)] = kind.group(1).decode()
        kernels = []
        for start in _KERNELS:
            for line in _lines(plan, start):
                kernel = _kernel(start, line, types)
                if kernel.nodes:
                    kernels.append(kernel)
    return kernels


def _lines(plan: mmap.mmap, start: bytes) -> Iterator[bytes]:
    """Lines of the program's text that begin with `start`; it is among gigabytes of weights."""
    position = plan.find(start)
    while position >= 0:
        stop = plan.find(b"\n", position, position + _MAX_LINE_BYTES)
        if stop < 0:
            stop = position + len(start)
        yield plan[position + len(start) - 1 : stop]
        position = plan.find(start, stop)


def _kernel(start: bytes, line: bytes, types: Mapping[bytes, str]) -> Kernel:
    layers, inputs = _LAYERS.search(line), _INPUTS.search(line)
    names = _QUOTED.findall(inputs.group(1)) if inputs else []
    name = re.match(rb' name="?([^" ]*)', line)
    return Kernel(
        kind=start.split(b"=")[0].decode(),
        name=name.group(1).decode(errors="replace") if name else "",
        operand_types=tuple(types.get(operand, "") for operand in names),
        nodes=tuple(found.decode() for found in _NODE.findall(layers.group(1))) if layers else (),
    )


def _narrowest_pair(node: str, kernels: Sequence[Kernel]) -> tuple[str, str]:
    """Operand types of the node's product: (activation, weight). Of several kernels (a fusion and what it falls back
    to), the one with the narrowest weight."""
    pairs = []
    for kernel in kernels:
        if node not in kernel.nodes or kernel.kind == "function":
            continue
        if kernel.kind == "fully_connected":
            first, second = (*kernel.operand_types, "", "")[:2]
            pairs.append((first or second, second or first))
        else:
            pairs.append(_fusion_pair(kernel.operand_types))
    return min(pairs, key=lambda pair: (_bits(pair[1]), _bits(pair[0])), default=("unknown", "unknown"))


def _fusion_pair(operand_types: Sequence[str]) -> tuple[str, str]:
    """A fusion's operands come in no fixed order: its narrowest is the weight; the next of them the activation."""
    numbers = sorted((kind for kind in operand_types if kind in _BITS), key=_bits)
    if not numbers:
        return "unknown", "unknown"
    narrow = [kind for kind in numbers if _bits(kind) == _bits(numbers[0])]
    return (narrow[1] if len(narrow) > 1 else numbers[min(1, len(numbers) - 1)]), narrow[0]


def _bits(kind: str) -> int:
    return _BITS.get(kind, 64)


def _source_type(name: str, stored: Mapping[str, int], made_by: Mapping[str, onnx.NodeProto]) -> str | None:
    """Type that a weight is stored in, looking through what is computed from constants alone; None for activations."""
    while name not in stored:
        maker = made_by.get(name)
        if maker is None or maker.op_type not in (*_PASSED_THROUGH, "DequantizeLinear"):
            return None
        name = maker.input[0]
    return _ONNX_TYPES.get(stored[name])


def _computed_type(name: str, stored: Mapping[str, int], made_by: Mapping[str, onnx.NodeProto]) -> str:
    """Type of a weight where it enters the product: a DequantizeLinear gives its scale's."""
    while name not in stored:
        maker = made_by[name]
        name = maker.input[1 if maker.op_type == "DequantizeLinear" else 0]
    return _ONNX_TYPES.get(stored[name], "unknown")
