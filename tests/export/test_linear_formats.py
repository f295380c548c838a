"""Each way of quantising a Linear, as a graph in ONNX Runtime, against NumPy: exact values first, then rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from tests.export.test_quantizers import INPUTS, OUTPUTS, representable

from vprm_export.external_data import ExternalData
from vprm_export.graphs.builder import GraphBuilder, LinearFormat
from vprm_export.precision.linear_formats import Dequantized, HalfStored, StaticQdq, TokenInt8, TokenQdq
from vprm_export.precision.quantizers import fake_quantized_inputs, quantized_weight, static_scale
from vprm_export.precision.recipe import Recipe, WeightKind, recipe_for
from vprm_export.weights import Weight
from vprm_runtime.bundle.graph_io import GraphIO, TensorSpec
from vprm_runtime.bundle.manifest import Precision

Array = NDArray[Any]
FP32 = np.dtype(np.float32)
TOKENS = 7


def recipe(precision: Precision) -> Recipe:
    found = recipe_for(precision, "cpu" if precision != "int8" else "tensorrt")
    assert found is not None
    return found


def run(
    linear_format: LinearFormat, weight: Array, inputs: Array, folder: Path, rank: int = 2, bias: Array | None = None
) -> Array:
    """X W^T + b by a graph of this one Linear, computed in float32."""
    shape = ("S", INPUTS) if rank == 2 else ("B", "S", INPUTS)
    out = ("S", OUTPUTS) if rank == 2 else ("B", "S", OUTPUTS)
    io = GraphIO((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", out),))
    data = ExternalData("linear.data")
    graph = GraphBuilder("linear", io, FP32, data, lambda linear: linear_format)
    offset = None if bias is None else Weight("b", bias.shape, lambda: bias)
    product = graph.linear(graph.inputs["x"], Weight("w", weight.shape, lambda: weight), offset, "layers.0.o")
    model = graph.finish([product])
    data.write(folder, lambda written: None)
    ir.save(model, folder / "linear.onnx")
    session = onnxruntime.InferenceSession(folder / "linear.onnx", providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": inputs})[0]
    return result


def representable_inputs(seed: int = 5) -> NDArray[np.float32]:
    """Whole numbers up to 127, times a power of two a token."""
    codes = np.random.default_rng(seed).integers(-127, 128, (TOKENS, INPUTS)).astype(np.float32)
    codes[:, 3::64] = 127  # in every group: ONNX Runtime rounds inputs of weight-only products a token and group
    return codes


@pytest.mark.parametrize("rank", [2, 3])
def test_token_int8_is_exact_on_representable_values(tmp_path: Path, rank: int) -> None:
    weight = representable("int8_channel")
    inputs = representable_inputs() * np.exp2(np.arange(TOKENS) * 4 - 12).astype(np.float32)[:, None]
    given = inputs if rank == 2 else np.stack([inputs, inputs[::-1]])
    actual = run(TokenInt8(), weight, given, tmp_path, rank)
    np.testing.assert_allclose(actual, given @ weight.T, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(
    ("linear_format", "kind"),
    [
        (HalfStored(), "int8_channel"),
        (TokenInt8(), "int8_channel"),
        (TokenQdq(recipe("int8")), "int8_channel"),
        (Dequantized(recipe("w8")), "int8_group"),
        (Dequantized(recipe("w4")), "int4_group"),
    ],
    ids=["half", "token_int8", "token_qdq", "w8", "w4"],
)
def test_a_bias_is_added_to_the_scaled_product(
    linear_format: LinearFormat, kind: WeightKind, tmp_path: Path, rank: int
) -> None:
    """Tokens differ in size, so a bias that is multiplied by their scales too cannot pass."""
    weight = representable(kind)
    inputs = representable_inputs() * np.exp2(np.arange(TOKENS) * 4 - 24).astype(np.float32)[:, None]
    bias = np.arange(1, OUTPUTS + 1, dtype=np.float32)
    given = inputs if rank == 2 else np.stack([inputs, inputs[::-1]])
    expected = given @ weight.T + bias
    np.testing.assert_allclose(run(linear_format, weight, given, tmp_path, rank, bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("linear_format", [TokenInt8(), TokenQdq(recipe("int8"))], ids=["cpu", "tensorrt"])
def test_token_int8_rounds_as_numpy_does(linear_format: LinearFormat, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    inputs = (rng.standard_normal((TOKENS, INPUTS)) * 10.0 ** np.arange(-3, 4)[:, None]).astype(np.float32)
    expected = (
        fake_quantized_inputs(inputs, "int8_token") @ quantized_weight(weight, "int8_channel", FP32).dequantized().T
    )
    actual = run(linear_format, weight, inputs, tmp_path)
    size = np.abs(expected).max(axis=1, keepdims=True)
    # TokenQdq divides by the absmax first: other last bits, so a few inputs between two codes get the other one.
    assert (np.abs(actual - expected) / size).max() < (1e-5 if linear_format == TokenInt8() else 2e-3)
    assert (np.abs(actual - inputs @ weight.T) / size).max() < 0.05  # every token, however small


def test_token_qdq_is_exact_on_representable_values(tmp_path: Path) -> None:
    inputs = representable_inputs() * np.exp2(np.arange(TOKENS) * 4 - 12).astype(np.float32)[:, None]
    inputs[2] = 0
    weight = representable("int8_channel")
    actual = run(TokenQdq(recipe("int8")), weight, inputs, tmp_path)
    np.testing.assert_allclose(actual, inputs @ weight.T, rtol=1e-5, atol=0)


@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_weight_only_is_exact_on_representable_values(tmp_path: Path, precision: Precision) -> None:
    chosen = recipe(precision)
    weight = representable(chosen.weights)
    actual = run(Dequantized(chosen), weight, representable_inputs(), tmp_path)
    np.testing.assert_allclose(actual, representable_inputs() @ weight.T, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("precision", "kind"), [("int8", "int8_channel"), ("fp8", "fp8_tensor")])
def test_static_qdq_is_exact_on_representable_values(tmp_path: Path, precision: Precision, kind: WeightKind) -> None:
    weight = representable(kind)
    # Whole numbers up to 16 are codes of both kinds: scales 1 (int8) and 1 (E4M3, up to 448).
    inputs = np.random.default_rng(7).integers(-16, 17, (TOKENS, INPUTS)).astype(np.float32)
    absmax = 127.0 if precision == "int8" else 448.0
    actual = run(StaticQdq(recipe(precision), absmax), weight, inputs, tmp_path)
    np.testing.assert_allclose(actual, inputs @ weight.T, rtol=1e-6, atol=1e-4)


def test_fp8_rounds_as_ml_dtypes_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    weight = rng.standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    inputs = rng.standard_normal((TOKENS, INPUTS)).astype(np.float32) * 3
    absmax = float(np.abs(inputs).max()) * 0.5  # some inputs saturate
    scale = static_scale(absmax, "fp8_static", FP32)
    rounded = fake_quantized_inputs(inputs, "fp8_static", scale)
    expected = rounded @ quantized_weight(weight, "fp8_tensor", FP32).dequantized().T
    actual = run(StaticQdq(recipe("fp8"), absmax), weight, inputs, tmp_path)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_a_linear_kept_high_is_stored_as_float16(tmp_path: Path) -> None:
    weight = np.random.default_rng(9).standard_normal((OUTPUTS, INPUTS)).astype(np.float16)
    inputs = representable_inputs()
    actual = run(HalfStored(), weight, inputs, tmp_path)
    np.testing.assert_allclose(actual, inputs @ weight.astype(np.float32).T, rtol=1e-4, atol=1e-2)
    assert (tmp_path / "linear.data").stat().st_size == weight.nbytes
