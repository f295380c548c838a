"""Budgets, verdicts and the choice among recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vprm_benchmarks.quality.budget import BUDGETS, Budget
from vprm_benchmarks.quality.compare import ComparedRow
from vprm_optimize.decide import NoneHeldError, Outcome, choose, judged, read_budget
from vprm_optimize.recipes import Recipe
from vprm_runtime.errors import InputError

INT8_BOTH, INT8, FP32 = Recipe("int8", "int8"), Recipe("int8", "fp32"), Recipe("fp32", "fp32")


def outcome(recipe: Recipe, seconds: float, size: int, state: str = "held") -> Outcome:
    return Outcome(recipe, state, "", size, speed={"best_of_n_s": seconds})  # type: ignore[arg-type]


def test_the_fastest_wins() -> None:
    found = [outcome(INT8_BOTH, 3.0, 10), outcome(INT8, 2.0, 12), outcome(FP32, 4.0, 30)]
    assert choose(found, "latency").recipe == INT8
    assert [one.state for one in found] == ["held", "chosen", "held"]


def test_among_equally_fast_ones_the_order_of_the_plan_decides() -> None:
    found = [outcome(INT8_BOTH, 2.1, 10), outcome(INT8, 2.0, 12)]
    assert choose(found, "latency").recipe == INT8_BOTH
    assert "10%" in found[0].reason


def test_the_smallest_wins_where_size_is_the_goal() -> None:
    assert choose([outcome(INT8, 1.0, 12), outcome(INT8_BOTH, 2.0, 11)], "size").recipe == INT8_BOTH


def test_what_was_rejected_never_wins() -> None:
    found = [outcome(INT8_BOTH, 0.1, 1, "rejected"), outcome(FP32, 4.0, 30)]
    assert choose(found, "latency").recipe == FP32
    with pytest.raises(NoneHeldError, match="int8-vision-int8"):
        choose(found[:1], "latency")


def row(reference: float, candidate: float, other: float = 0.5) -> ComparedRow:
    return ComparedRow(0, ((reference,), (other,)), ((candidate,), (other,)), ((1,), (-1,)))


def test_a_verdict_has_figures_and_the_interval_of_flips() -> None:
    rows = [row(0.9, 0.9)] * 99 + [row(0.9, 0.1)]
    verdict = judged(rows, ["row 7: no image"], BUDGETS["int8"])
    assert verdict["held"] is False
    assert verdict["choices"] == 100 and verdict["flips"] == 1
    low, high = verdict["flips_outside_interval"]
    assert low < verdict["flips_outside"] == 0.01 < high < 0.06
    assert verdict["left_out"] == 1
    assert judged(rows[:99], [], BUDGETS["fp32"])["held"] is True


def test_no_row_is_no_verdict() -> None:
    with pytest.raises(InputError, match="no image"):
        judged([], ["row 7: no image"], BUDGETS["int8"])


def test_budgets_are_presets_or_files(tmp_path: Path) -> None:
    assert read_budget("int8") == BUDGETS["int8"]
    assert read_budget("exact") == BUDGETS["fp32"]
    file = tmp_path / "budget.json"
    file.write_text(json.dumps({"mean_error": 0.5, "f1_change": 0, "flips_outside": 1}))
    assert read_budget(str(file)) == Budget(0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"mean_error": 0.1}', '{"mean_error": 2, "f1_change": 0, "flips_outside": 0}',
     '{"mean_error": true, "f1_change": 0, "flips_outside": 0}',
     '{"mean_error": NaN, "f1_change": 0, "flips_outside": 0}'],
)  # fmt: skip
def test_other_budgets_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "budget.json"
    file.write_text(text)
    with pytest.raises(InputError, match="--budget"):
        read_budget(str(file))
    with pytest.raises(InputError, match="neither a preset"):
        read_budget("int9")
