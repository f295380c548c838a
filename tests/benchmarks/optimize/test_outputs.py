"""What `vprm optimize` does with names that are taken, folders that are not its own, and input that changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import vprm_demo
from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_optimize.decide import read_budget
from vprm_optimize.plan import Request
from vprm_optimize.run import opened_run
from vprm_optimize.taking_up import asked_of, check_request
from vprm_runtime import InputError
from vprm_runtime.cli.main import main

CHECKPOINT = str(checkpoint_dir())


@pytest.mark.parametrize("output", [".", "", "/", "taken"])
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_names_that_cannot_be_made_are_refused_before_anything_is_planned(
    output: str,
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("x")
    assert main(["optimize", CHECKPOINT, output, *options]) == 2
    assert "name" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_wrong_score_rule_leaves_no_interrupted_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--score-rule", "nope", "--dry-run"]) == 2
    assert main(["optimize", CHECKPOINT, str(tmp_path / "bundle"), "--score-rule", "nope"]) == 2
    assert "no score rule 'nope'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_that_is_called_parts_stays(tmp_path: Path) -> None:
    precious = tmp_path / "bundle.parts" / "precious"
    precious.parent.mkdir()
    precious.write_text("x")
    with pytest.raises(InputError, match="move it away"), opened_run(Request(checkpoint_dir(), tmp_path / "bundle")):
        pass
    assert precious.read_text() == "x"


@pytest.mark.parametrize("stored", ["{", "[1]", "{}", '{"asked": 5, "plan": {}}', "[" * 99_999])
def test_a_damaged_plan_is_refused_by_name(stored: str, tmp_path: Path) -> None:
    request = Request(checkpoint_dir(), tmp_path / "bundle", goal="exact")
    with opened_run(request) as run:
        plan = run.work / "plan.json"
    plan.write_text(stored)
    with pytest.raises(InputError, match=r"plan\.json is damaged .* to begin anew"), opened_run(request):
        pass


def test_something_else_at_the_bundles_name_is_not_taken_for_it(tmp_path: Path) -> None:
    request = Request(checkpoint_dir(), tmp_path / "bundle", goal="exact")
    with opened_run(request) as run:
        (run.work / "fp32").mkdir()
    export_bundle(checkpoint_dir(), tmp_path / "bundle", ExportOptions("fp32"))
    with opened_run(request) as run, pytest.raises(InputError, match="did not make it"):
        run.has_finished()
    assert (tmp_path / "bundle.parts" / "fp32").is_dir()


def test_a_checkpoint_that_changes_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for file in checkpoint_dir().iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    request = Request(copy, tmp_path / "bundle", goal="exact")
    before = asked_of(request)
    with opened_run(request) as run:
        best = run.run()
        os.utime(copy / "tokenizer.model", ns=(1, 1))
        with pytest.raises(InputError, match="checkpoint: changed since the run began"):
            run.finish("{}", {}, best)
    assert asked_of(request) != before
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(InputError, match="another checkpoint"), opened_run(request):
        pass


def test_a_score_rule_file_that_changes_is_another_run(tmp_path: Path) -> None:
    rule = {
        "name": "own", "first_turn": "{question} {step}", "step_joiner": "\n", "reply": "+",
        "candidates": [{"text": "+", "weight": 1}, {"text": "-", "weight": 0}],
    }  # fmt: skip
    file = tmp_path / "rule.json"
    asked = []
    for joiner in ("\n", "\n\n"):
        file.write_text(json.dumps({**rule, "step_joiner": joiner}))
        request = Request(checkpoint_dir(), tmp_path / "bundle", score_rule=str(file))
        check_request(request)
        asked.append(asked_of(request)["score_rule"])
    assert asked[0] != asked[1]


def test_budgets_are_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="nor a file that can be read"):
            read_budget(str(path))
    for text in ("[" * 99_999, '{"mean_error": NaN, "f1_change": 0, "flips_outside": 0}'):
        (tmp_path / "budget.json").write_text(text)
        with pytest.raises(InputError, match="not JSON"):
            read_budget(str(tmp_path / "budget.json"))


def test_a_calibrations_folder_is_not_another_commands(tmp_path: Path) -> None:
    from vprm_calibration.calibrate import calibrate

    rows = vprm_demo.held_out_rows(2, cache_dir=tmp_path / "rows")
    export_bundle(checkpoint_dir(), tmp_path / "bundle", ExportOptions("fp32"))
    precious = tmp_path / "c.parts" / "precious"
    precious.parent.mkdir()
    precious.write_text("x")
    with pytest.raises(InputError, match="move it away"):
        calibrate(tmp_path / "bundle", rows, tmp_path / "c")
    (tmp_path / "c").write_text("")
    with pytest.raises(InputError, match="exists already"):
        calibrate(tmp_path / "bundle", rows, tmp_path / "c")
    assert precious.read_text() == "x"
    with pytest.raises(InputError, match="a name of its own"):
        calibrate(tmp_path / "bundle", rows, Path("."))
