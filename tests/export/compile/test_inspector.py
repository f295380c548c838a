"""The engine inspector's JSON text, as NVIDIA documents it for TensorRT 10 and 11, read as kernels and compared."""

from __future__ import annotations

import json

import pytest

from vprm_compile.engine_check import Product, compare
from vprm_compile.inspector import inspected_kernels

TYPE_KEYS = {"10": "Format/Datatype", "11": "DataType"}


def tensor(name: str, kind: str, version: str) -> dict[str, object]:
    return {"Name": name, "Dimensions": [16, 32], TYPE_KEYS[version]: kind}


def document(version: str) -> str:
    """A product in INT8, one that fell back to half, and a fused attention."""
    layers = [
        {
            "Name": "__myl_Fc_1",
            "LayerType": "gemm",
            "Inputs": [tensor("a", "Int8", version), tensor("w", "Int8", version)],
            "TacticName": "sm90_xmma_gemm_i8i8",
            "Metadata": "[ONNX Layer: node_MatMul_1]\u001f[ONNX Layer: q]",
        },
        {
            "Name": "__myl_CastFc_2",
            "LayerType": "kgen",
            "Inputs": [tensor("a", "Half", version), tensor("w", "Half", version)],
            "Metadata": "[ONNX Layer: node_MatMul_2]",
        },
        {
            "Name": "_gemm_mha_v2_3",
            "LayerType": "fusion",
            "Inputs": [tensor(name, "Half", version) for name in "qkv"],
            "Metadata": "[ONNX Layer: node_Attention_3]",
        },
        {"Name": "Reformat", "LayerType": "Reformat", "Inputs": [], "Metadata": ""},
    ]
    return json.dumps({"Layers": layers, "I/O Tensors": []})


@pytest.mark.parametrize("version", TYPE_KEYS)
def test_layers_become_kernels(version: str) -> None:
    kernels = inspected_kernels(document(version))
    assert [kernel.nodes for kernel in kernels] == [("node_MatMul_1", "q"), ("node_MatMul_2",), ("node_Attention_3",)]
    wanted = [Product(f"node_MatMul_{number}", "int8", "int8") for number in (1, 2, 9)]
    check = compare(kernels, ["node_Attention_3", "node_Attention_9"], wanted, whole=False)
    assert (check.read, check.attention_nodes, check.fused_attention_nodes) == (True, 2, 1)
    assert check.matmuls == {"half x half": 1, "int8 x int8": 1, "unknown x unknown": 1}
    assert check.problems == ("node_MatMul_2: the graph asks for int8 x int8, the engine multiplies half x half",)


def test_attention_in_an_ordinary_kernel_is_a_problem() -> None:
    text = document("11").replace("_gemm_mha_v2_3", "__myl_ReshSoftmax")
    check = compare(inspected_kernels(text), ["node_Attention_3"], [], whole=False)
    assert check.problems == ("node_Attention_3: attention is not in a fused kernel",)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("BFloat16", "bf16"),
        ("FP8", "fp8_e4m3"),
        ("Int4", "int4"),
        ("Row major linear FP16 format (kLINEAR)", "half"),
        ("Float", "float"),
        ("Bool", ""),
    ],
)
def test_types(word: str, kind: str) -> None:
    (kernel, *_) = inspected_kernels(document("11").replace('"Int8"', json.dumps(word)))
    assert kernel.operand_types == (kind, kind)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": ["names", "alone"]}'])
def test_what_is_no_such_text_says_that_nothing_was_read(text: str) -> None:
    check = compare(inspected_kernels(text), ["node_Attention_3"], [], whole=False)
    assert (check.read, check.problems) == (False, ())
