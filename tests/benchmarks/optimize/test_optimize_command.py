"""`vprm optimize` on the demo PRM, with few rows: one command, a bundle with evidence, the same after kills."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import vprm_demo
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, StepScorer
from vprm_runtime.cli.main import main

CHECKPOINT = str(vprm_demo.checkpoint_dir())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 best-of-2 questions as a user's own file."""
    return vprm_demo.best_of_n_rows(24, n_responses=2, cache_dir=tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def optimised(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    """A finished run for any CPU."""
    output = tmp_path_factory.mktemp("optimised") / "bundle"
    assert main(["optimize", CHECKPOINT, str(output), "--for", "cpu", "--data", str(rows), "--html"]) == 0
    return output


def test_the_bundle_scores_and_has_its_evidence(optimised: Path) -> None:
    bundle = Bundle.open(optimised)
    bundle.verify()
    report = json.loads((optimised / "report.json").read_text("utf-8"))
    summary = bundle.manifest.optimisation
    assert summary is not None
    assert summary.recipe == report["chosen"]
    assert summary.rows_judged == report["rows"]["judging"] == 18
    assert report["rows"]["calibration"] == 6
    assert summary.figures["mean_error"] <= summary.budget["mean_error"] == 0.01
    chosen = next(one for one in report["recipes"] if one["state"] == "chosen")
    assert chosen["speed"]["best_of_n_s"] > 0
    example = vprm_demo.example()
    assert StepScorer.open(optimised).score(str(example.image), example.question, example.responses).best == 0
    assert not optimised.with_name("bundle.parts").exists()


def test_the_page_has_every_recipe_and_the_chart(optimised: Path) -> None:
    page = (optimised / "report.html").read_text("utf-8")
    report = json.loads((optimised / "report.json").read_text("utf-8"))
    for one in report["recipes"]:
        assert one["name"] in page
    assert "Accuracy against speed" in page and "<svg" in page
    for command in report["commands"]:
        assert command.split(" --")[0] in page


def test_inspect_shows_the_choice(optimised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(optimised), "--verify"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "optimised for" in shown
    assert json.loads((optimised / "report.json").read_text("utf-8"))["chosen"] in shown


def test_the_commands_of_the_report_make_the_same_graphs(
    optimised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand, in another folder, each command as it is: the same weights byte for byte, judged the same."""
    monkeypatch.chdir(tmp_path)
    report = json.loads((optimised / "report.json").read_text("utf-8"))
    for command in report["commands"][:-1]:  # the last is to be filled in
        words = shlex.split(command)
        capsys.readouterr()
        if words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], check=True)
        else:
            assert main([*words[1:], *(["--json"] if words[1] in ("quality", "bench") else [])]) == 0, command
        if words[1] == "quality":
            judged = json.loads(capsys.readouterr().out)
    made, by_hand = Bundle.open(optimised).manifest, Bundle.open(tmp_path / "by-hand").manifest
    for name, info in made.files.items():
        if name.endswith(".data"):
            assert by_hand.files[name] == info
    chosen = next(one for one in report["recipes"] if one["state"] == "chosen")
    assert judged["rows"] == chosen["quality"]["rows"]
    assert judged["step_score_error"]["mean"] == pytest.approx(chosen["quality"]["mean_error"], abs=1e-5)


def test_a_dry_run_prints_the_plan_and_leaves_nothing(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--data", str(rows), "--dry-run"]
    assert main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["seconds_certain"] > 0 and plan["disk_bytes"] > 0 and plan["memory_bytes"] > 0
    assert main(arguments) == 0
    assert "reference scores" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["h100", "l4", "a100"])
def test_a_gpu_that_is_not_here_gets_a_plan_that_says_what_cannot_be_measured(
    target: str, tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--data", str(rows), "--for", target]
    assert main([*arguments, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    names = [recipe["precision"] for group in plan["groups"] for recipe in group]
    assert names[-1] == "fp16"
    assert ("fp8" in names) == (target != "a100")
    assert any("speed is not measured" in note for note in plan["notes"])
    assert not [stage for stage in plan["stages"] if stage["name"].startswith("time")]


def test_a_budget_that_nothing_holds_is_exit_code_1_and_says_by_how_much(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = tmp_path / "budget.json"
    budget.write_text('{"mean_error": 0, "f1_change": 0, "flips_outside": 0}')
    arguments = ["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--data", str(rows), "--for", "a100"]
    assert main([*arguments, "--budget", str(budget), "--max-rows", "4", "--json"]) == 1
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert "no recipe held the budget" in shown.err
    assert report["chosen"] is None
    rejected = [one for one in report["recipes"] if one["state"] == "rejected"]
    assert [one["precision"] for one in rejected] == ["int8", "w8", "fp16"]  # each milder one was tried
    assert all("mean step-score error" in one["reason"] for one in rejected)
    assert not (tmp_path / "bundle").exists()
    scores = {file: file.stat().st_mtime_ns for file in (tmp_path / "bundle.parts").glob("*.jsonl")}
    del scores[tmp_path / "bundle.parts" / "stages.jsonl"]  # what each stage took
    assert len(scores) == 4
    assert main([*arguments, "--budget", "w4", "--max-rows", "4", "--dry-run"]) == 0
    from vprm_benchmarks.quality.budget import Budget
    from vprm_optimize.plan import Request
    from vprm_optimize.run import opened_run

    request = Request(
        vprm_demo.checkpoint_dir(), tmp_path / "bundle", "a100", (rows,), budget=Budget(1, 1, 1), max_rows=4
    )
    with opened_run(request) as run:  # goes on with the scores that are there
        run._try_group(run.plan.groups[0])
        assert [one.state for one in run.outcomes] == ["held"]
    assert {file: file.stat().st_mtime_ns for file in scores} == scores


def arguments_of(output: Path, rows: Path) -> list[str]:
    """Without times, which differ from run to run, unless this machine has AMX."""
    return ["optimize", CHECKPOINT, str(output), "--for", "cpu-amx", "--data", str(rows), "--max-rows", "6"]


def content(bundle: Path) -> dict[str, Any]:
    """Everything in a bundle; of the report all but times and the folder's own name."""
    found: dict[str, Any] = {}
    for file in sorted(bundle.rglob("*")):
        if file.is_file():
            found[str(file.relative_to(bundle))] = file.read_bytes()
    report = json.loads(found.pop("report.json"))
    for one in report["recipes"]:
        one["speed"] = one["export_s"] = None
    del report["bundle"], report["commands"], report["not_measured"], report["took"]
    return {**found, **{f"report.json: {key}": value for key, value in report.items()}}


def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(tmp_path: Path, rows: Path) -> None:
    assert main(arguments_of(tmp_path / "whole", rows)) == 0
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "vprm", *arguments_of(killed, rows)]
    chance = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(1, 8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not killed.exists() or Bundle.open(killed)
        if killed.exists():
            break
    if not killed.exists():
        assert main(arguments_of(killed, rows)) == 0
    whole, resumed = content(tmp_path / "whole"), content(killed)
    assert {name for name in whole.keys() | resumed.keys() if whole.get(name) != resumed.get(name)} == set()


def test_a_run_with_other_options_is_not_mixed_in(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vprm_optimize.plan import Request
    from vprm_optimize.run import opened_run

    request = Request(vprm_demo.checkpoint_dir(), tmp_path / "bundle", data=(rows,), max_rows=4)
    with opened_run(request):
        pass
    assert main(["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--data", str(rows), "--max-rows", "5"]) == 2
    assert "another max_rows" in capsys.readouterr().err


def test_a_bundle_that_is_there_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_bundle(vprm_demo.checkpoint_dir(), tmp_path / "bundle", ExportOptions("fp32"))
    assert main(["optimize", CHECKPOINT, str(tmp_path / "bundle")]) == 2
    assert "exists already" in capsys.readouterr().err
