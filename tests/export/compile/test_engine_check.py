"""Reading a compiled program: fused attention, quantised products, and what counts as a problem."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from vprm_compile.engine_check import Kernel, Product, attention_nodes, compare, products, read_kernels
from vprm_runtime import Bundle

PROGRAM = b"\n".join(
    (
        b"\x00\xff binary weights \x80",
        b'  tensor={ alignment=128 dims={ 1 } name="a" offset=0 type=int8 }',
        b'  tensor={ alignment=128 dims={ 1 } name="w" offset=0 type=int8 }',
        b'  tensor={ alignment=128 dims={ 1 } name="h" offset=0 type=half }',
        b'  fully_connected={ name="node_MatMul_1" output={"x" } input={"a" "w" "h" } stream=0 '
        b'layers="[ONNX Layer: node_MatMul_1]\x1f[ONNX Layer: q]" }',
        b'  runtime_fusion={ name=__myl_CastMulCastFc input_args={ "h" "h" "w" } output_args={ "x" } '
        b'layers="[ONNX Layer: node_MatMul_2]" }',
        b'  fully_connected={ name="node_MatMul_2" output={"x" } input={"h" "h" } '
        b'layers="[ONNX Layer: node_MatMul_2]" }',
        b'  function={ name=_gemm_mha_v2 fqn=_gemm_mha_v2_0x24 args={ "h" } input_args={ "h" "h" "h" } '
        b'layers="[ONNX Layer: node_Attention_3]" swap_ab=false }',
        b"\x00 more weights without an end of line tensor={ ",
    )
)


def test_a_program_is_read_from_between_the_weights(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(PROGRAM)
    kernels = read_kernels(tmp_path / "plan")
    assert kernels[0] == Kernel("fully_connected", "node_MatMul_1", ("int8", "int8", "half"), ("node_MatMul_1", "q"))
    wanted = [Product("node_MatMul_1", "int8", "int8"), Product("node_MatMul_2", "half", "int8")]
    check = compare(kernels, ["node_Attention_3"], wanted)
    assert check.read
    assert (check.attention_nodes, check.fused_attention_nodes) == (1, 1)
    assert check.matmuls == {"half x int8": 1, "int8 x int8": 1}
    assert check.problems == ()


def test_what_is_not_fused_or_cast_away_is_a_problem() -> None:
    kernels = [
        Kernel("fully_connected", "a", ("half", "half", "float"), ("node_MatMul_1",)),
        Kernel("function", "__myl_ReshSoftmax", ("half",), ("node_Attention_3",)),
    ]
    check = compare(
        kernels, ["node_Attention_3"], [Product("node_MatMul_1", "int8", "int8"), Product("gone", "half", "half")]
    )
    assert check.fused_attention_nodes == 0
    assert check.problems == (
        "node_Attention_3: attention is not in a fused kernel",
        "node_MatMul_1: the graph asks for int8 x int8, the engine multiplies half x half",
        "gone: the graph asks for half x half, the engine multiplies unknown x unknown",
    )


def test_an_unreadable_engine_says_so(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"\x00" * 100)
    check = compare(read_kernels(tmp_path / "plan"), ["node_Attention_3"], [])
    assert (check.read, check.problems) == (False, ())


def test_products_of_an_fp16_graph(fp16_bundle: Bundle) -> None:
    model = onnx.load(str(fp16_bundle.llm_path), load_external_data=False)
    layers = fp16_bundle.manifest.model.layers
    assert len(attention_nodes(model)) == layers
    found = products(model)
    pairs = [(product.activation, product.weight) for product in found]
    assert pairs == [("half", "half")] * (4 * layers + 1) + [("float", "float")]  # the last layer has q apart from k, v


@pytest.mark.parametrize("zero_point", [onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN])
def test_products_of_a_quantized_graph(zero_point: int) -> None:
    helper = onnx.helper
    stored = [
        helper.make_tensor("codes", zero_point, [2, 2], b"\0\0\0\0", raw=True),
        helper.make_tensor("zero", zero_point, [], b"\0", raw=True),
        helper.make_tensor("scale", onnx.TensorProto.FLOAT16, [], b"\0\0", raw=True),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], name="weight"),
        helper.make_node("MatMul", ["dq", "w"], ["y"], name="both"),
        helper.make_node("MatMul", ["x", "w"], ["z"], name="weight only"),
        helper.make_node("MatMul", ["x", "x"], ["s"], name="no weight"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], stored)
    kind = "int8" if zero_point == onnx.TensorProto.INT8 else "fp8_e4m3"
    assert products(helper.make_model(graph)) == [Product("both", kind, kind), Product("weight only", "half", kind)]
