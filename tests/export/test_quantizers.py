"""Quantisers on values that they can hold exactly: any error is a layout or scale bug."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from vprm_export.precision.quantizers import (
    fake_quantized_inputs,
    fp8_codes,
    packed_int4,
    quantized_weight,
    static_scale,
)
from vprm_export.precision.recipe import WeightKind, group_size, recipe_for
from vprm_runtime.errors import UnsupportedError

FP32 = np.dtype(np.float32)
OUTPUTS, INPUTS = 6, 192


def representable(kind: WeightKind, seed: int = 0) -> NDArray[np.float32]:
    """A weight [out, in] that `kind` holds without error: codes times a power of two a channel, group or tensor."""
    rng = np.random.default_rng(seed)
    if kind == "fp8_tensor":
        codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        finite = codes[np.isfinite(codes)]
        values = rng.choice(finite, (OUTPUTS, INPUTS)).astype(np.float32)
        values[0, 0] = 448
        return values / 1024
    largest = 7 if kind == "int4_group" else 127
    codes = rng.integers(-largest, largest + 1, (OUTPUTS, INPUTS)).astype(np.float32)
    group = INPUTS if kind == "int8_channel" else group_size(INPUTS)
    grouped = codes.reshape(OUTPUTS, -1, group)
    grouped[:, :, 0] = largest  # so that the scale comes out as the power of two
    exponents = rng.integers(-12, 3, grouped.shape[:2])
    return (grouped * np.exp2(exponents)[:, :, None]).reshape(OUTPUTS, INPUTS).astype(np.float32)


@pytest.mark.parametrize("kind", ["int8_channel", "int8_group", "int4_group", "fp8_tensor"])
@pytest.mark.parametrize("scale_dtype", [np.float32, np.float16])
def test_representable_weights_come_back_exactly(kind: WeightKind, scale_dtype: type) -> None:
    weight = representable(kind)
    quantized = quantized_weight(weight, kind, np.dtype(scale_dtype))
    np.testing.assert_array_equal(quantized.dequantized(), weight)


@pytest.mark.parametrize("kind", ["int8_channel", "int8_group", "int4_group"])
def test_error_is_at_most_half_a_step(kind: WeightKind) -> None:
    weight = np.random.default_rng(1).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    quantized = quantized_weight(weight, kind, FP32)
    # int4 is clipped on purpose: bounded by the clipping, not by half a step.
    bound = np.abs(weight).max() * (0.3 if kind == "int4_group" else 1.001 / 127 / 2)
    assert np.abs(quantized.dequantized() - weight).max() <= bound


def test_large_weights_are_quantized_in_parts_as_in_one() -> None:
    weight = np.random.default_rng(2).standard_normal((2500, 32)).astype(np.float32)
    whole = quantized_weight(weight, "int8_channel", FP32)
    for row in (0, 1023, 1024, 2499):
        alone = quantized_weight(weight[row : row + 1], "int8_channel", FP32)
        np.testing.assert_array_equal(whole.codes[row], alone.codes[0])
        assert whole.scales[row] == alone.scales[0]


def test_zero_weights_stay_zero() -> None:
    for kind in ("int8_channel", "int8_group", "int4_group", "fp8_tensor"):
        quantized = quantized_weight(np.zeros((4, 32), np.float32), kind, np.dtype(np.float16))  # type: ignore[arg-type]
        assert (quantized.dequantized() == 0).all() and (quantized.scales > 0).all()


def hessian_of(inputs: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Second moments [in/block, block, block] of inputs [tokens, in]."""
    blocks = inputs.T.reshape(-1, block, len(inputs))
    hessian: NDArray[np.float32] = blocks @ blocks.transpose(0, 2, 1) / np.float32(len(inputs))
    return hessian


def test_second_moments_decide_which_weights_a_clipped_group_serves() -> None:
    weight = np.full((1, 128), 0.5, np.float32)
    weight[0, :32] = 1.0
    plain = quantized_weight(weight, "int4_group", FP32).dequantized()
    hessian = np.diag(np.where(np.arange(128) < 32, 1e-6, 1).astype(np.float32))[None]
    weighted = quantized_weight(weight, "int4_group", FP32, hessian).dequantized()
    assert np.abs(weighted[0, 32:] - 0.5).max() < np.abs(plain[0, 32:] - 0.5).max()


@pytest.mark.parametrize(("kind", "gain"), [("int4_group", 2.0), ("fp8_tensor", 1.5)])
@pytest.mark.parametrize("block", [64, 192])
def test_errors_are_made_up_for_where_inputs_are_correlated(kind: WeightKind, gain: float, block: int) -> None:
    rng = np.random.default_rng(4)
    few = rng.standard_normal((2000, INPUTS // 64, 12))  # what the 64 channels of a group have in common
    inputs = np.einsum("tgk,gkc->tgc", few, rng.standard_normal((INPUTS // 64, 12, 64))).reshape(2000, INPUTS)
    inputs = (inputs + 0.3 * rng.standard_normal(inputs.shape)).astype(np.float32)
    weight = rng.standard_normal((32, INPUTS)).astype(np.float32)
    seen, unseen = inputs[:1000], inputs[1000:]

    def error(hessian: NDArray[np.float32] | None) -> float:
        rounded = quantized_weight(weight, kind, FP32, hessian).dequantized()
        return float(np.square(unseen @ (rounded - weight).T).mean())

    assert error(hessian_of(seen, block)) * gain < error(None)


def test_int4_is_packed_low_half_first() -> None:
    codes = np.array([[1, -1, 7], [-8, 0, 2]], np.int8)
    assert packed_int4(codes).tobytes() == bytes([0xF1, 0x87, 0x20])
    assert packed_int4(np.array([3], np.int8)).tobytes() == bytes([0x03])


def test_inputs_get_a_scale_a_token() -> None:
    codes = np.random.default_rng(3).integers(-127, 128, (5, 64)).astype(np.float32)
    codes[:, 0] = 127
    inputs = codes * np.exp2([[-9], [0], [3], [-2], [10]]).astype(np.float32)
    np.testing.assert_allclose(fake_quantized_inputs(inputs, "int8_token"), inputs, rtol=1e-6)
    assert (fake_quantized_inputs(np.zeros((2, 64), np.float32), "int8_token") == 0).all()


def test_static_inputs_saturate() -> None:
    scale = static_scale(127.0, "int8_static", FP32)
    inputs = np.array([[-500.0, -3.4, 0.5, 1.5, 500.0]], np.float32)
    assert fake_quantized_inputs(inputs, "int8_static", scale).tolist() == [[-128, -3, 0, 2, 127]]
    assert fp8_codes(np.array([1e6], np.float32), np.float32(1)).astype(np.float32).tolist() == [448]  # type: ignore[arg-type]


@pytest.mark.parametrize(("inputs", "group"), [(4096, 128), (14336, 128), (192, 64), (48, 16)])
def test_groups_divide_the_inputs(inputs: int, group: int) -> None:
    assert group_size(inputs) == group


def test_what_cannot_be_quantized_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="24 inputs cannot be quantised in groups"):
        group_size(24)
    with pytest.raises(UnsupportedError, match="int8 for cpu"):
        recipe_for("int8", "dsp")  # type: ignore[arg-type]
    assert recipe_for("fp16", "cpu") is None


def test_roles_that_cost_too_much_have_a_recipe_of_higher_precision() -> None:
    w4, static = recipe_for("w4", "cpu"), recipe_for("int8", "tensorrt")
    assert w4 is not None and static is not None
    assert w4.of("qkv") == recipe_for("w8", "cpu") and w4.of("down") == w4
    assert static.of("down").activations == "int8_token" and static.of("o") == static
    assert static.description == (
        "qkv, o, gate_up: weights int8_channel, activations int8_static; "
        "down: weights int8_channel, activations int8_token"
    )
