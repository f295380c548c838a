"""What all benchmarks share: turns, ratios and goals, the roofline, tables and images."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from vprm_benchmarks.speed.plot import draw_report
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.roofline import cpu_roofline
from vprm_benchmarks.speed.stopwatch import interleaved


@pytest.fixture(scope="module")
def roofline() -> dict[str, object]:
    return cpu_roofline(threads=1, size=64)


def test_contenders_take_turns_and_warm_ups_do_not_count() -> None:
    order: list[str] = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, rounds=20, warmups=1)  # type: ignore[misc]
    rounds = ["".join(order[start : start + 3]) for start in range(0, 63, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) == 6, "every order occurs, so no contender always comes after the same other one"
    assert {name: len(values) for name, values in times.items()} == {"a": 20, "b": 20, "c": 20}


def test_turns_are_prepared_and_cleared_up() -> None:
    order: list[str] = []
    interleaved(
        {"a": lambda: order.append("a")},
        rounds=1,
        before=lambda call: (order.append("before"), call())[0],
        after=lambda: order.append("after"),
    )
    assert order == ["before", "a", "a", "after"] * 2


def test_the_roofline_measures_both_libraries_and_names_the_machine(roofline: dict[str, object]) -> None:
    assert set(roofline["tflops"]) >= {"torch_fp32", "torch_bf16", "onnxruntime_fp32", "onnxruntime_int8"}
    assert all(value > 0 for value in roofline["tflops"].values())
    assert roofline["memory_gb_per_s"] > 0
    assert roofline["machine"]["cpu"]
    assert roofline["machine"]["versions"]["onnxruntime"]


def test_ratios_are_of_medians_and_goals_have_directions(roofline: dict[str, object]) -> None:
    report = Report("a benchmark", roofline)
    report.add_times({"ours": [1.0, 9.0, 2.0], "theirs": [8.0, 2.0, 4.0]})
    report.ratio("ours", "theirs", Goal(0.6, 0.4))
    report.ratio("theirs", "ours", Goal(1.5, 2.0, "higher"))
    document = report.to_json()
    assert document["ratios"] == {"ours_over_theirs": 0.5, "theirs_over_ours": 2.0}
    assert document["goals"]["ours_over_theirs"]["met"] == "bar"
    assert document["goals"]["theirs_over_ours"]["met"] == "stretch"
    assert Goal(0.6, 0.4).met(0.7) is None
    assert document["contenders"]["ours"] == {"median_s": 2.0, "times_s": [1.0, 9.0, 2.0]}


def test_reports_are_shown_and_drawn(roofline: dict[str, object], tmp_path: Path) -> None:
    report = Report("a benchmark", roofline)
    report.add_times({"ours": [1.0], "theirs": [2.0]})
    report.ratio("theirs", "ours", Goal(3, 4, "higher"))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.tables())
    text = console.export_text()
    assert "theirs_over_ours" in text
    assert "≥ 3" in text
    draw_report(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
