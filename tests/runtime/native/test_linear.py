"""The native Linear by itself: exact against NumPy, the same bits at every level, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.native_child import NativeChild
from tests.support.native_library import LIBRARY, Compiled, LibraryAt, LinearCase, Rows, linear

from vprm_export.precision.native_linear import PackedWeight, alternating
from vprm_export.precision.quantizers import fake_quantized_inputs, quantized_weight
from vprm_export.precision.recipe import ActivationKind, WeightKind
from vprm_export.weights import Weight
from vprm_runtime.native import Activation, Level, level

pytestmark = pytest.mark.skipif(level() is None, reason="the native library was not built")

SHAPES = [  # rows, inputs, outputs
    (1, 64, 32),
    (5, 128, 33),
    (7, 320, 96),
    (16, 1024, 160),
    (27, 1280, 64),
    (33, 2304, 64),
    (600, 192, 100),
]
ODD_INPUTS = [(3, 100, 40), (40, 63, 31), (9, 1100, 65)]  # for scales per channel, which need no groups
KINDS: list[tuple[WeightKind, ActivationKind]] = [
    ("int8_channel", "int8_token"),
    ("int8_group", "int8_token_group"),
    ("int4_group", "int8_token_group"),
]


@pytest.fixture(params=["PLAIN", "AVX512", "AMX", "emulated AMX"])
def kernel(request: pytest.FixtureRequest, library_at: LibraryAt) -> Compiled:
    """Every level that this CPU has, and AMX's in plain C."""
    return library_at(request.param)


def packed(values: Rows, kind: WeightKind) -> tuple[NDArray[np.uint8], Rows, PackedWeight]:
    weight = PackedWeight(Weight("w", values.shape, lambda: values), kind, lambda: None)
    return weight.codes.load(), weight.scales.load(), weight


def case(shape: tuple[int, int, int], kind: WeightKind, seed: int = 0) -> tuple[LinearCase, Rows]:
    """Random inputs of very different sizes and a random weight; the weight [outputs, inputs] beside the call."""
    rows, inputs, outputs = shape
    random = np.random.default_rng(seed)
    values = random.standard_normal((outputs, inputs), np.float32)
    tokens = random.standard_normal((rows, inputs), np.float32) * np.float32(10) ** random.integers(-3, 4, (rows, 1))
    codes, scales, weight = packed(values, kind)
    tokens = np.ascontiguousarray(tokens, np.float32)
    return LinearCase(tokens, codes, scales, outputs, weight.bits, weight.group), values


def expected(inputs: LinearCase, values: Rows, kind: WeightKind, activations: ActivationKind) -> NDArray[np.float64]:
    """The rounding of the recipe, multiplied in float64."""
    tokens = fake_quantized_inputs(inputs.input, activations)
    weight = quantized_weight(values, kind, np.dtype(np.float32)).dequantized()
    return tokens.astype(np.float64) @ weight.T.astype(np.float64)


@pytest.mark.parametrize(("kind", "activations"), KINDS)
@pytest.mark.parametrize("shape", SHAPES + ODD_INPUTS)
def test_it_is_the_recipes_product(
    child: NativeChild, kernel: Compiled, shape: tuple[int, int, int], kind: WeightKind,
    activations: ActivationKind,
) -> None:  # fmt: skip
    if shape in ODD_INPUTS and kind != "int8_channel":
        pytest.skip("groups need a multiple of 16 inputs")
    inputs, values = case(shape, kind)
    wanted = expected(inputs, values, kind, activations)
    # Products and scales are rounded to float32; a code that lies between two may fall either way: 1 of 127.
    tolerance = 0.02 * np.abs(wanted).max(axis=1, keepdims=True)
    found = child.call(linear, *kernel, inputs)
    assert (np.abs(found - wanted) <= tolerance).all()
    assert np.median(np.abs(found - wanted) / tolerance) < 1e-3


@pytest.mark.parametrize(("kind", "activations"), KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (24, 14336, 32)])
def test_integers_are_exact(
    child: NativeChild, kernel: Compiled, shape: tuple[int, int, int], kind: WeightKind,
    activations: ActivationKind,
) -> None:  # fmt: skip
    """Integers whose scales are 1 are their own codes, so a layout fault cannot hide in a tolerance."""
    rows, inputs, outputs = shape
    random = np.random.default_rng(1)
    largest = 7 if kind == "int4_group" else 127
    values = random.integers(-largest, largest + 1, (outputs, inputs)).astype(np.float32)
    tokens = random.integers(-127, 128, (rows, inputs)).astype(np.float32)
    values[:, ::16], tokens[:, ::16] = largest, -127
    codes, scales, weight = packed(values, kind)
    assert (scales[:-1] == 1).all() and (scales[-1, :, : (outputs - 1) % 32 + 1] == 1).all()
    call = LinearCase(tokens, codes, scales, outputs, weight.bits, weight.group)
    wanted = tokens.astype(np.int64) @ values.T.astype(np.int64)
    if np.abs(wanted).max() < 1 << 24:
        np.testing.assert_array_equal(child.call(linear, *kernel, call), wanted)
    else:  # float32 holds 24 bits
        np.testing.assert_allclose(child.call(linear, *kernel, call), wanted, rtol=3e-7, atol=scales.shape[1])


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize(("kind", "activations"), KINDS)
def test_every_level_gives_the_same_bits(
    child: NativeChild, kernel: Compiled, kind: WeightKind, activations: ActivationKind,
    activation: Activation,
) -> None:  # fmt: skip
    random = np.random.default_rng(2)
    inputs, _ = case((37, 768, 192), kind)
    outputs = 96 if activation is Activation.SILU_GATE else 192
    inputs = replace(
        inputs, outputs=outputs, activation=int(activation), bias=random.standard_normal(192, np.float32),
        residual=random.standard_normal((37, outputs), np.float32),
    )  # fmt: skip
    plain = child.call(linear, LIBRARY, Level.PLAIN, inputs)
    np.testing.assert_array_equal(child.call(linear, *kernel, inputs), plain)


def test_bias_activation_and_residual_follow_the_product(child: NativeChild, kernel: Compiled) -> None:
    random = np.random.default_rng(3)
    tokens = random.standard_normal((9, 256), np.float32)
    gate, up = random.standard_normal((2, 80, 256), np.float32) / 8
    both = alternating(Weight("gate", gate.shape, lambda: gate), Weight("up", up.shape, lambda: up))
    residual = random.standard_normal((9, 80), np.float32)

    def run(values: Rows, outputs: int, **more: object) -> Rows:
        codes, scales, _ = packed(values, "int8_channel")
        return child.call(linear, *kernel, LinearCase(tokens, codes, scales, outputs, **more))  # type: ignore[arg-type]

    gates, ups = run(gate, 80).astype(np.float64), run(up, 80).astype(np.float64)
    np.testing.assert_allclose(
        run(both.load(), 80, activation=Activation.SILU_GATE, residual=residual),
        gates / (1 + np.exp(-gates)) * ups + residual, rtol=2e-6, atol=2e-6,
    )  # fmt: skip
    bias = np.pad(random.standard_normal(80, np.float32), (0, 16))
    biased = gates + bias[:80]
    errors = np.vectorize(__import__("math").erf)
    np.testing.assert_allclose(
        run(gate, 80, activation=Activation.GELU, bias=bias),
        biased / 2 * (1 + errors(biased / np.sqrt(2))), rtol=2e-6, atol=2e-6,
    )  # fmt: skip
    np.testing.assert_array_equal(run(gate, 80, bias=bias, residual=residual), run(gate, 80) + bias[:80] + residual)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("kind", "activations"), KINDS)
def test_an_input_that_is_no_number_gives_no_number_in_its_row(
    child: NativeChild, kernel: Compiled, kind: WeightKind, activations: ActivationKind, value: float
) -> None:
    inputs, _ = case((8, 256, 64), kind)
    inputs.input[3, 77] = value
    found = child.call(linear, *kernel, inputs)
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()


def test_rows_of_zeros_are_zeros(child: NativeChild, kernel: Compiled) -> None:
    inputs, _ = case((4, 128, 64), "int8_channel")
    inputs.input[2] = 0
    found = child.call(linear, *kernel, inputs)
    assert (found[2] == 0).all() and (found[1] != 0).any()


def test_results_are_those_of_one_row_alone(child: NativeChild, kernel: Compiled) -> None:
    """A row's result does not depend on how many rows there are: packed responses score as they do alone."""
    for kind, _ in KINDS:
        inputs, _ = case((530, 256, 96), kind)
        together = child.call(linear, *kernel, inputs)
        for row in (0, 5, 17, 511, 512, 529):
            alone = child.call(linear, *kernel, replace(inputs, input=inputs.input[row : row + 1].copy()))
            np.testing.assert_array_equal(together[row : row + 1], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "bits must be 4, 8 or 16"),
        ({"bits": 4}, "4-bit weights need groups"),
        ({"group": 24}, "a group must be"),
        ({"group": 96}, "a group must be"),
        ({"activation": 9}, "activation must be"),
        ({"outputs": 0}, "outputs at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(child: NativeChild, change: dict[str, int], message: str) -> None:
    inputs, _ = case((2, 192, 64), "int8_channel")
    with pytest.raises(ValueError, match=message):
        child.call(linear, LIBRARY, Level.PLAIN, replace(inputs, **change))
