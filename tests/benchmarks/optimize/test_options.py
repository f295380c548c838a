"""Options of `vprm optimize`, each in a real run on few of the demo's rows; outliers planted into its Linears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vprm_demo
from vprm_benchmarks.quality.api import QualityOptions, measure_quality
from vprm_benchmarks.quality.outliers import plant_outliers
from vprm_export import ExportOptions, export_bundle
from vprm_optimize.plan import Request, make_plan
from vprm_optimize.run import opened_run
from vprm_runtime import Bundle
from vprm_runtime.cli.main import main

CHECKPOINT = str(vprm_demo.checkpoint_dir())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 best-of-2 questions as a user's own file."""
    return vprm_demo.best_of_n_rows(24, n_responses=2, cache_dir=tmp_path_factory.mktemp("rows"))


def optimised(output: Path, rows: Path, *options: str, checkpoint: str = CHECKPOINT) -> dict[str, Any]:
    """The report of a run that ended with a bundle."""
    arguments = ["optimize", checkpoint, str(output), "--data", str(rows), "--max-rows", "6", "--threads", "1"]
    assert main([*arguments, *options]) == 0
    Bundle.open(output).verify()
    report: dict[str, Any] = json.loads((output / "report.json").read_text("utf-8"))
    return report


def open_budget(folder: Path) -> str:
    """A budget that everything holds."""
    file = folder / "open.json"
    file.write_text('{"mean_error": 1, "f1_change": 1, "flips_outside": 1}')
    return str(file)


def chosen(report: dict[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in report["recipes"] if one["state"] == "chosen"]
    assert isinstance(found, dict)
    return found


def test_keep_all_keeps_what_held_the_budget_and_json_is_all_there_is_on_stdout(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--for", "cpu", "--keep-all", "--json", "--html", "--budget", open_budget(tmp_path))
    report = optimised(tmp_path / "bundle", rows, *options)
    assert json.loads(capsys.readouterr().out) == report
    held = {one["name"] for one in report["recipes"] if one["state"] == "held"}
    assert held and {folder.name for folder in (tmp_path / "bundle" / "others").iterdir()} == held
    for name in held:
        Bundle.open(tmp_path / "bundle" / "others" / name).verify()
    assert "Stages" in (tmp_path / "bundle" / "report.html").read_text("utf-8")
    assert not (tmp_path / "bundle.parts").exists()


def test_every_stage_says_what_it_took_beside_what_was_estimated(tmp_path: Path, rows: Path) -> None:
    report = optimised(tmp_path / "bundle", rows, "--for", "cpu", "--budget", open_budget(tmp_path))
    stages = {stage["name"]: stage for stage in report["took"]["stages"]}
    assert {"export fp32 (reference)", "calibrate", "reference scores"} <= set(stages)
    for stage in stages.values():
        assert stage["estimated_s"] > 0 and stage["seconds"] > 0 and stage["cpu_s"] > 0 and stage["began"] == 1
    assert report["took"]["rates"]["flops"] > 1e8


def test_the_goal_size_takes_the_smallest_that_holds_the_budget(tmp_path: Path, rows: Path) -> None:
    report = optimised(tmp_path / "bundle", rows, "--for", "cpu", "--goal", "size", "--budget", open_budget(tmp_path))
    assert chosen(report)["precision"] == "w4"
    assert report["reason"] == "the smallest bundle that holds the budget"
    others = [one["size_bytes"] for one in report["recipes"] if one["state"] == "held"]
    assert all(chosen(report)["size_bytes"] <= size for size in others)


def test_the_goal_exact_is_floating_point_and_needs_no_reference(tmp_path: Path, rows: Path) -> None:
    report = optimised(tmp_path / "bundle", rows, "--goal", "exact")
    assert chosen(report)["precision"] == "fp32"
    assert {stage["name"] for stage in report["took"]["stages"]} == {"export fp32", "time fp32"}


def test_a_time_limit_plans_fewer_rows_and_ends_with_what_holds_the_budget(tmp_path: Path, rows: Path) -> None:
    request = Request(vprm_demo.checkpoint_dir(), tmp_path / "bundle", "cpu", (rows,), time_limit_s=1e-6)
    assert make_plan(request).judging_rows == 16  # no fewer, whatever the limit
    with opened_run(request) as run:
        best = run.run()
    assert best.survived
    assert any("time limit" in one.reason for one in run.outcomes if one.state == "not tried")


def test_the_budget_may_be_a_file(tmp_path: Path, rows: Path) -> None:
    budget = tmp_path / "budget.json"
    budget.write_text('{"mean_error": 0.02, "f1_change": 0.9, "flips_outside": 1}')
    report = optimised(tmp_path / "bundle", rows, "--for", "cpu", "--budget", str(budget))
    assert report["budget"] == {"name": str(budget), "mean_error": 0.02, "f1_change": 0.9, "flips_outside": 1.0}


def test_with_outliers_planted_the_recipe_is_calibrated_and_holds_the_budget(tmp_path: Path, rows: Path) -> None:
    planted = plant_outliers(vprm_demo.checkpoint_dir(), tmp_path / "planted")
    budget = tmp_path / "budget.json"  # of few rows, one label that changes is a large change of F1
    budget.write_text('{"mean_error": 0.01, "f1_change": 1, "flips_outside": 1}')
    report = optimised(tmp_path / "bundle", rows, "--for", "cpu", "--budget", str(budget), checkpoint=str(planted))
    best = chosen(report)
    assert best["precision"] == "int8" and best["calibrated"] is True
    assert best["quality"]["mean_error"] <= report["budget"]["mean_error"]
    assert any(command.startswith("vprm calibrate") for command in report["commands"])
    plain = tmp_path / "plain"
    export_bundle(planted, plain, ExportOptions("int8", best["vision"]))
    judged = measure_quality({"plain": plain}, planted, QualityOptions((rows,), 6, threads=1))["plain"]
    assert judged.figures.errors.mean > report["budget"]["mean_error"]
