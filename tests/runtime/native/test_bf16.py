"""The native Linear in bfloat16: exact on integers, the sums' order, all levels, and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from tests.support.native_child import NativeChild
from tests.support.native_library import LIBRARY, Compiled, LibraryAt, LinearCase, Rows, linear

from vprm_export.external_data import ExternalData
from vprm_export.graphs.builder import GraphBuilder
from vprm_export.precision.native_linear import Bf16Weight, NativeLinear, alternating
from vprm_export.weights import BFLOAT16, Weight
from vprm_runtime import native
from vprm_runtime.bundle.graph_io import GraphIO, TensorSpec
from vprm_runtime.native import Activation, Level, level

pytestmark = pytest.mark.skipif(level() is None, reason="the native library was not built")

SHAPES = [  # rows, inputs, outputs
    (1, 32, 32),
    (1, 1, 1),
    (2, 31, 33),
    (5, 100, 64),
    (7, 320, 65),
    (16, 1024, 160),
    (33, 2304, 31),
    (600, 192, 100),
]
LEVELS = ("PLAIN", "AVX512", "AVX512 without BF16", "AMX", "emulated AMX")


@pytest.fixture(params=LEVELS)
def kernel(request: pytest.FixtureRequest, library_at: LibraryAt) -> Compiled:
    """Every level that this CPU has, AVX-512 without its BF16, and AMX's tiles in plain C."""
    return library_at(request.param)


def call_of(tokens: Rows, values: Rows, **more: Any) -> LinearCase:
    packed = Bf16Weight(Weight("w", values.shape, lambda: values)).codes
    codes = packed.load()
    assert codes.shape == packed.shape
    return LinearCase(tokens, codes, None, more.pop("outputs", len(values)), bits=16, **more)


def random_case(shape: tuple[int, int, int], seed: int = 0) -> tuple[Rows, Rows]:
    """Rows of very different sizes, and a weight [outputs, inputs]."""
    rows, inputs, outputs = shape
    random = np.random.default_rng(seed)
    tokens = random.standard_normal((rows, inputs), np.float32) * np.float32(10) ** random.integers(-3, 4, (rows, 1))
    return np.ascontiguousarray(tokens, np.float32), random.standard_normal((outputs, inputs), np.float32)


def rounded(values: Rows) -> Rows:
    return values.astype(BFLOAT16).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product_of_rounded_numbers(
    child: NativeChild, kernel: Compiled, shape: tuple[int, int, int]
) -> None:
    tokens, values = random_case(shape)
    x, w = rounded(tokens).astype(np.float64), rounded(values).astype(np.float64)
    found = child.call(linear, *kernel, call_of(tokens, values))
    size = np.abs(x) @ np.abs(w.T)  # what float32 rounds, in the worst case once an addition
    assert (np.abs(found - x @ w.T) <= 2**-24 * np.sqrt(shape[1] + 4) * 4 * size).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_integers_are_exact(child: NativeChild, kernel: Compiled, shape: tuple[int, int, int]) -> None:
    """Their sums are float32 numbers whatever the order, so a layout fault cannot hide in a tolerance."""
    rows, inputs, outputs = shape
    random = np.random.default_rng(1)
    tokens = random.integers(-64, 65, (rows, inputs)).astype(np.float32)
    values = random.integers(-64, 65, (outputs, inputs)).astype(np.float32)
    np.testing.assert_array_equal(child.call(linear, *kernel, call_of(tokens, values)), tokens @ values.T)


def test_sums_are_in_one_order_without_amx(child: NativeChild, kernel: Compiled) -> None:
    """In float32, of each pair the second product first: the same bits at every level but AMX's."""
    tokens, values = random_case((9, 700, 96), 2)
    x, w = rounded(tokens), rounded(values)
    wanted = np.zeros((9, 96), np.float32)
    for pair in range(0, 700, 2):
        for at in (pair + 1, pair):
            wanted += np.outer(x[:, at], w[:, at])
    found = child.call(linear, *kernel, call_of(tokens, values))
    if kernel[1] is Level.AMX:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2**-20 * float(np.abs(wanted).max()))
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("activation", list(Activation))
def test_bias_activation_and_residual_follow_the_product(
    child: NativeChild, kernel: Compiled, activation: Activation
) -> None:
    random = np.random.default_rng(3)
    tokens = random.standard_normal((9, 250), np.float32)
    first, second = random.standard_normal((2, 80, 250), np.float32) / 8
    bias = np.pad(random.standard_normal(80, np.float32), (0, 16))
    residual = random.standard_normal((9, 80), np.float32)

    def run(values: Rows, **more: Any) -> NDArray[np.float64]:
        return child.call(linear, *kernel, call_of(tokens, values, outputs=80, **more)).astype(np.float64)

    plain = run(first)
    if activation is Activation.SILU_GATE:
        both = alternating(Weight("a", first.shape, lambda: first), Weight("b", second.shape, lambda: second))
        found = run(both.load(), activation=int(activation), residual=residual)
        np.testing.assert_allclose(found, plain / (1 + np.exp(-plain)) * run(second) + residual, rtol=2e-6, atol=2e-6)
        return
    found = run(first, activation=int(activation), bias=bias, residual=residual)
    value = plain + bias[:80]
    if activation is Activation.GELU:
        value = value / 2 * (1 + np.vectorize(__import__("math").erf)(value / np.sqrt(2)))
    np.testing.assert_allclose(found, value + residual, rtol=2e-6, atol=2e-6)


def test_results_are_those_of_one_row_alone(child: NativeChild, kernel: Compiled) -> None:
    """A row's result does not depend on how many rows there are: packed responses score as they do alone."""
    tokens, values = random_case((530, 250, 96))
    case = call_of(tokens, values)
    together = child.call(linear, *kernel, case)
    for row in (0, 5, 17, 511, 512, 529):
        alone = child.call(linear, *kernel, replace(case, input=tokens[row : row + 1].copy()))
        np.testing.assert_array_equal(together[row : row + 1], alone)


def test_rounding_is_to_the_nearest_and_keeps_what_is_no_number(child: NativeChild, kernel: Compiled) -> None:
    """Inputs next to ties, and special ones, times 1."""
    special = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-23, -1 - 2**-8, 3e38, 0, 1e-30], np.float32)
    eye = np.eye(8, dtype=np.float32)
    found = child.call(linear, *kernel, call_of(special[None], eye))
    np.testing.assert_array_equal(found[0], rounded(special))
    for value in (np.nan, np.inf, -np.inf, np.uint32(0x7F800001).view(np.float32)):
        rows = np.ones((3, 8), np.float32)
        rows[1, 4] = value
        found = child.call(linear, *kernel, call_of(rows, np.ones((5, 8), np.float32)))
        assert not np.isfinite(found[1]).any() and (found[[0, 2]] == 8).all()


def test_weights_of_a_bfloat16_checkpoint_stay_as_they_are() -> None:
    values = np.random.default_rng(5).standard_normal((37, 70), np.float32).astype(BFLOAT16)
    codes = Bf16Weight(Weight("w", values.shape, lambda: values)).codes.load().view(np.uint16)
    tiles = codes.reshape(2, 3, 2, 16, 16, 2)  # panels, chunks, halves, pairs, outputs, of a pair
    back = tiles.transpose(0, 2, 4, 1, 3, 5).reshape(64, 96)
    np.testing.assert_array_equal(back[:37, :70], values.view(np.uint16))
    assert not back[37:].any() and not back[:, 70:].any()


@pytest.mark.parametrize(
    ("change", "message"), [({"group": 32}, "16-bit weights have no groups"), ({"bits": 12}, "bits must be 4, 8 or 16")]
)
def test_numbers_that_make_no_sense_are_refused(child: NativeChild, change: dict[str, int], message: str) -> None:
    tokens, values = random_case((2, 64, 32))
    with pytest.raises(ValueError, match=message):
        child.call(linear, LIBRARY, Level.PLAIN, replace(call_of(tokens, values), **change))


def operator_session(directory: Path, values: Rows, threads: int) -> onnxruntime.InferenceSession:
    """A graph of one Linear whose weight is mapped from a file."""
    io = GraphIO(
        (TensorSpec("x", "float32", ("rows", values.shape[1])),), (TensorSpec("y", "float32", ("rows", len(values))),)
    )
    directory.mkdir()
    path = directory / "linear.onnx"
    data = ExternalData(f"{path.name}.data")
    graph = GraphBuilder("linear", io, np.dtype(np.float32), data, lambda name: NativeLinear("bf16"))
    result = graph.linear(graph.inputs["x"], Weight("w", values.shape, lambda: values), linear="linear")
    ir.save(graph.finish([result]), path)
    data.write(directory, lambda count: None)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(native.library_path()))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_threads_and_sessions_at_the_same_time_give_the_same_bits(tmp_path: Path) -> None:
    tokens, values = random_case((530, 300, 200), 4)
    sessions = [operator_session(tmp_path / str(threads), values, threads) for threads in (1, 2, 3)]
    (wanted,) = sessions[0].run(None, {"x": tokens})
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(sessions[i % 3].run, None, {"x": tokens[: 530 - i]}) for i in range(30)]
        for i, job in enumerate(jobs):
            np.testing.assert_array_equal(job.result()[0], wanted[: 530 - i])
