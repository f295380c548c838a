"""The native attention kernel by itself, at every level that the CPU has, and on emulated tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.native_child import NativeChild
from tests.support.native_library import LIBRARY, AttentionCase, LibraryAt, Rows, attention

from vprm_runtime.native import Level, description, level

Case = AttentionCase
pytestmark = pytest.mark.skipif(level() is None, reason="the native library was not built")


@dataclass(frozen=True)
class Kernel:
    """A compiled library at one level, in a process of its own."""

    child: NativeChild
    library: Path
    level: Level

    def __call__(self, case: Case) -> Rows:
        return self.child.call(attention, self.library, int(self.level), case)


@pytest.fixture(scope="module", params=["PLAIN", "AVX512", "AMX", "emulated AMX"])
def kernel(request: pytest.FixtureRequest, child: NativeChild, library_at: LibraryAt) -> Kernel:
    """Every level that this CPU has, and AMX's in plain C."""
    if request.param == "emulated AMX" and "float32" in description():
        pytest.skip("around emulated tiles there is AVX-512 BF16, which this CPU has not")
    return Kernel(child, *library_at(request.param))


def case(
    queries: int, past: int, heads: int, kv_heads: int, head_dim: int, seed: int = 0, new: int | None = None
) -> Case:
    """Random inputs, and a mask in which every query sees its own key and about half of the others."""
    random = np.random.default_rng(seed)
    keys = queries if new is None else new

    def rows(count: int, width: int) -> Rows:
        return random.standard_normal((count, width * head_dim), np.float32)

    mask = random.random((queries, past + keys)) < 0.5
    mask[np.arange(queries), past + np.arange(queries) % keys] = True
    return Case(
        rows(queries, heads), rows(past, kv_heads), rows(past, kv_heads), rows(keys, kv_heads), rows(keys, kv_heads),
        mask, heads, kv_heads,
    )  # fmt: skip


def expected(case: Case) -> NDArray[np.float64]:
    """The formula, in float64."""
    queries, group = len(case.query), case.heads // case.kv_heads
    query = case.query.reshape(queries, case.heads, -1).transpose(1, 0, 2).astype(np.float64)
    keys, values = (
        np.repeat(np.concatenate(both).reshape(-1, case.kv_heads, query.shape[2]).transpose(1, 0, 2), group, axis=0)
        for both in ((case.past_key, case.key), (case.past_value, case.value))
    )
    scores = query @ keys.transpose(0, 2, 1) / np.sqrt(query.shape[2])
    if case.mask is not None:
        scores = np.where(case.mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    result: NDArray[np.float64] = (weights @ values / weights.sum(axis=2, keepdims=True)).transpose(1, 0, 2)
    return result.reshape(queries, -1)


SHAPES = [  # queries, past, heads, kv_heads, head_dim
    (1, 0, 1, 1, 8),
    (1, 33, 4, 1, 32),
    (5, 0, 3, 3, 64),
    (70, 100, 4, 2, 48),
    (129, 127, 8, 2, 128),
    (17, 300, 64, 1, 16),
    (40, 90, 2, 2, 256),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_it_computes_attention_within_bfloat16(kernel: Kernel, shape: tuple[int, ...], masked: bool) -> None:
    inputs = case(*shape)
    if not masked:
        inputs = replace(inputs, mask=None)
    # Weights and values are rounded to 8 bits each, scores by as much as their operands.
    np.testing.assert_allclose(kernel(inputs), expected(inputs), rtol=0, atol=0.02)


def test_fewer_queries_than_new_keys(kernel: Kernel) -> None:
    inputs = case(3, 20, 4, 2, 32, new=150)
    np.testing.assert_allclose(kernel(inputs), expected(inputs), rtol=0, atol=0.02)


def test_keys_packed_where_they_are_used_give_the_same_bits(kernel: Kernel) -> None:
    """One block of queries packs keys for itself, several share what was packed before."""
    many = case(40, 300, 8, 2, 48)
    assert many.mask is not None
    few = replace(many, query=many.query[:16].copy(), mask=many.mask[:16].copy())
    np.testing.assert_array_equal(kernel(few), kernel(many)[:16])


@pytest.mark.parametrize("shape", SHAPES)
def test_means_of_small_integers_are_exact(kernel: Kernel, shape: tuple[int, ...]) -> None:
    """Queries of 0 weigh all visible keys alike: nothing is rounded, so a layout fault cannot hide in a tolerance."""
    random = np.random.default_rng(1)
    inputs = case(*shape)
    total = shape[0] + shape[1]
    visible = 1 << int(np.log2(total))
    mask = np.zeros((shape[0], total), np.bool_)
    for row in mask:
        row[random.permutation(total)[:visible]] = True
    past_value, value = (
        random.integers(-8, 9, rows.shape).astype(np.float32) for rows in (inputs.past_value, inputs.value)
    )
    inputs = Case(
        np.zeros_like(inputs.query), inputs.past_key, past_value, inputs.key, value, mask, shape[2], shape[3]
    )  # fmt: skip
    np.testing.assert_array_equal(kernel(inputs), expected(inputs))


def test_a_dominant_key_gives_its_value_exactly(kernel: Kernel) -> None:
    """Query i asks for key 2i + 1 alone, so the result is that key's value."""
    tokens, head_dim = 60, 64
    codes = np.random.default_rng(2).choice(np.float32([-1, 1]), (2 * tokens, head_dim))
    values = np.random.default_rng(3).integers(-99, 100, (2 * tokens, head_dim)).astype(np.float32)
    chosen = 2 * np.arange(tokens) + 1
    none = np.zeros((0, head_dim), np.float32)
    inputs = Case(256 * codes[chosen], none, none, codes, values, None, 1, 1)
    np.testing.assert_array_equal(kernel(inputs), values[chosen])


def test_large_scores_neither_overflow_nor_lose_later_keys(kernel: Kernel) -> None:
    inputs = case(50, 400, 4, 2, 64)
    inputs = replace(inputs, query=inputs.query * 300, mask=None)
    result = kernel(inputs)
    assert np.isfinite(result).all()
    largest = np.abs(np.concatenate([inputs.past_value, inputs.value])).max()
    assert np.abs(result).max() <= largest * 1.01


def test_a_query_that_sees_nothing_gives_no_number(kernel: Kernel) -> None:
    inputs = case(9, 200, 2, 1, 32)
    assert inputs.mask is not None
    inputs.mask[4] = False
    result = kernel(inputs)
    assert np.isnan(result[4]).all()
    assert np.isfinite(np.delete(result, 4, axis=0)).all()


def test_all_levels_agree(kernel: Kernel) -> None:
    """Plain C is in float32, the others round inputs and weights to bfloat16."""
    plain = Kernel(kernel.child, LIBRARY, Level.PLAIN)
    inputs = case(100, 333, 8, 2, 128)
    np.testing.assert_allclose(kernel(inputs), plain(inputs), rtol=0, atol=0.01)
