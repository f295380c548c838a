"""Commands that take a checkpoint take a model's id on the hub; names are the model's, never the commit's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.fake_hub import COMMIT

import vprm_demo
from vprm_benchmarks.parity.api import ParityOptions, run_parity
from vprm_export import ExportOptions, export_bundle
from vprm_export.hub import local_checkpoint
from vprm_runtime import Bundle, BundleError
from vprm_runtime.cli import common
from vprm_runtime.cli.main import main


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Few best-of-2 questions."""
    return vprm_demo.best_of_n_rows(4, n_responses=2, cache_dir=tmp_path / "rows")


def test_calibrate_takes_an_id(hub: list[str], rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "calibration.safetensors"
    assert main(["calibrate", "Owner/Model", "--data", str(rows), "--max-rows", "1", "-o", str(output)]) == 0
    assert output.exists()


def test_quality_takes_an_id_and_names_the_model(
    hub: list[str], rows: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quality", str(demo_bundle), "--against", "Owner/Model", "--data", str(rows), "--json"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["against"] == "Owner/Model"
    assert "downloading Owner/Model" in shown.err


def test_parity_takes_an_id_and_names_the_model(
    hub: list[str], demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["parity", str(demo_bundle), "--checkpoint", "Owner/Model", "--limit", "1", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "Owner/Model"
    report = run_parity(demo_bundle, local_checkpoint("Owner/Model"), ParityOptions(limit=1))
    assert COMMIT not in json.dumps(report.to_json()["checkpoint"])


def test_optimize_takes_an_id_and_names_the_model_in_bundle_and_reports(
    hub: list[str], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    arguments = ["optimize", "Owner/Model", str(bundle), "--data", str(rows), "--goal", "exact", "--html", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "Owner/Model"
    assert Bundle.open(bundle).manifest.model.name == "Owner/Model"
    page = (bundle / "report.html").read_text("utf-8")
    assert "Best bundle of Owner/Model" in page
    assert any(command.startswith("vprm export Owner/Model") for command in report["commands"])
    assert COMMIT not in page.replace(f"@{COMMIT}", "")


def test_score_makes_the_best_bundle_of_an_id_if_asked(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(checkpoint: Path) -> Path:
        assert str(checkpoint) == "Owner/Model"
        return demo_bundle

    monkeypatch.setattr(common, "entry_points", lambda **keys: [SimpleNamespace(load=lambda: made)])
    arguments = ["score", "Owner/Model", "--optimize", "--question", "Q?", "--response", "A.", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["error"] is None
    with pytest.raises(BundleError, match="vprm optimize Owner/Model@v1 Model-bundle"):
        Bundle.open("Owner/Model@v1")


def test_a_snapshot_of_the_hubs_cache_is_called_by_its_models_name(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Owner--Model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in vprm_demo.checkpoint_dir().iterdir():
        (snapshot / file.name).symlink_to(file)
    with pytest.raises(BundleError, match=r"vprm optimize .* Model-bundle$"):
        Bundle.open(snapshot)
    (tmp_path / "link").symlink_to(snapshot)
    for number, folder in enumerate((snapshot, tmp_path / "link")):
        export_bundle(folder, tmp_path / f"bundle-{number}", ExportOptions("fp16"))
        assert Bundle.open(tmp_path / f"bundle-{number}").manifest.model.name == "Owner/Model"
