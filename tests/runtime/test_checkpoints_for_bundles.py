"""Checkpoints and model ids where a bundle is expected: one command is named, or run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import vprm_demo
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, BundleError, StepScorer
from vprm_runtime.cli import common
from vprm_runtime.cli.main import main


def test_a_checkpoint_is_told_from_a_bundle_and_one_command_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = vprm_demo.checkpoint_dir()
    with pytest.raises(BundleError, match=r"is a checkpoint, not a bundle.*vprm optimize .*checkpoint-bundle"):
        StepScorer.open(checkpoint)
    assert main(["score", str(checkpoint), "--question", "Q?", "--response", "A."]) == 2
    assert f"vprm optimize {checkpoint}" in capfd.readouterr().err


def test_a_model_id_is_told_from_a_path() -> None:
    with pytest.raises(BundleError, match=r"vprm optimize OpenGVLab/VisualPRM-8B VisualPRM-8B-bundle"):
        StepScorer.open("OpenGVLab/VisualPRM-8B")
    with pytest.raises(BundleError, match=r"vprm optimize CHECKPOINT no/such/place"):
        StepScorer.open("no/such/place")


def test_score_makes_the_best_bundle_first_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hook is what `vprm optimize` installs; here it makes a bundle in a second."""

    def made(checkpoint: Path) -> Path:
        if not (tmp_path / "bundle").exists():
            export_bundle(checkpoint, tmp_path / "bundle", ExportOptions("fp16"))
        return tmp_path / "bundle"

    asked: list[dict[str, str]] = []
    monkeypatch.setattr(
        common, "entry_points", lambda **keys: asked.append(keys) or [SimpleNamespace(load=lambda: made)]
    )
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(vprm_demo.checkpoint_dir(), checkpoint)
    arguments = ["score", str(checkpoint), "--optimize", "--question", "Q?", "--response", "A.", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["error"] is None
    assert asked == [{"group": "vprm.optimize", "name": "bundle"}]
    assert Bundle.open(tmp_path / "bundle").manifest.graphs.llm.precision == "fp16"


def test_a_bundle_is_scored_as_it_is(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(demo_bundle), "--optimize", "--question", "Q?", "--response", "A.", "--json"]) == 0
