"""Each extra alone: the built wheel in an environment with nothing but what the extra asks for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tests.support.extras import lean_environment

from vprm_runtime.cli.main import main

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
NAMES = {entry.name for entry in entry_points(group="vprm.commands")}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("extra", ["", *(extra for extra in EXTRAS if extra != "dev")])
def test_an_extra_alone_gives_a_working_command(extra: str, wheel: Path, demo_bundle: Path, tmp_path: Path) -> None:
    python = lean_environment(wheel, extra, tmp_path / "environment")

    def vprm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, "-m", "vprm", *arguments], capture_output=True, text=True, cwd=tmp_path)

    assert vprm("--version").stdout.startswith("vprm ")
    listed = vprm("--help")
    assert listed.returncode == 0, listed.stderr
    for name in NAMES:
        assert re.search(rf"^    {name}\b", listed.stdout, re.M), listed.stdout
    assert "cannot be loaded" not in listed.stdout
    inspected = vprm("inspect", str(demo_bundle), "--json")
    assert inspected.returncode == 0, inspected.stderr
    assert json.loads(inspected.stdout)["manifest"]["model"]["layers"] == 6

    looked = vprm("doctor", "--json")
    can_score = _has(tmp_path / "environment", "onnxruntime") or _has(tmp_path / "environment", "openvino")
    assert looked.returncode == (0 if can_score else 1), looked.stdout + looked.stderr
    assert bool(json.loads(looked.stdout)["devices"]) == can_score

    device = ["--device", "openvino"] if extra == "openvino" else ["--device", "cpu"]
    scored = vprm("score", str(demo_bundle), "--question", "Which?", "--response", "One.", "--json", *device)
    engine = "openvino" if extra == "openvino" else "onnxruntime"
    if _has(tmp_path / "environment", engine):
        assert scored.returncode == 0, scored.stderr
        assert json.loads(scored.stdout)["results"][0]["error"] is None
    else:
        assert scored.returncode == 2
        assert re.fullmatch(r"error: .*pip install 'vprm\[cpu\]'.*\n", scored.stderr), scored.stderr
    if extra == "openvino":  # never chosen automatically
        refused = vprm("score", str(demo_bundle), "--question", "Which?", "--response", "One.")
        assert refused.returncode == 2
        assert "--device openvino" in refused.stderr


def _has(environment: Path, package: str) -> bool:
    return any(environment.glob(f"lib/*/site-packages/{package}"))


def test_a_command_whose_extra_is_missing_says_so_in_one_line(wheel: Path, demo_bundle: Path, tmp_path: Path) -> None:
    python = lean_environment(wheel, "cpu", tmp_path / "environment")
    attempts = {
        "export": (["export", str(demo_bundle), "out"], "export"),
        "build": (["build", str(demo_bundle), "--engine", "tensorrt-rtx", "--sm", "89"], "export,tensorrt-rtx"),
        "calibrate": (["calibrate", str(demo_bundle), "-o", "c.safetensors"], "calibration"),
        "parity": (["parity", str(demo_bundle), "--checkpoint", str(demo_bundle)], "export,reference"),
    }
    listed = subprocess.run([python, "-m", "vprm", "--help"], capture_output=True, text=True).stdout
    listed = " ".join(listed.split())
    for arguments, extras in attempts.values():
        assert f"needs vprm[{extras}]" in listed
        done = subprocess.run([python, "-m", "vprm", *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr
        assert f"pip install 'vprm[{extras}]'" in done.stderr


def test_a_broken_command_takes_no_other_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], demo_bundle: Path
) -> None:
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vprm.commands]\nbroken = no_such_module:register\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["inspect", str(demo_bundle), "--json"]) == 0
    capfd.readouterr()
    assert main(["broken"]) == 2
    assert "no_such_module" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capfd.readouterr().out
    assert "cannot be loaded: ModuleNotFoundError" in shown
    assert "score responses" in shown


def test_the_wheel_has_a_tag_that_an_index_accepts(wheel: Path) -> None:
    """Pure, or manylinux as auditwheel finds it; never plain linux_x86_64."""
    if wheel.name.endswith("-py3-none-any.whl"):
        return
    tag = re.search(r"-py3-none-(manylinux_2_\d+_x86_64)\.whl$", wheel.name)
    assert tag, wheel.name
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)], check=True, capture_output=True, text=True
    )
    assert f'"{tag[1]}"' in shown.stdout or f"manylinux_2_{tag[1].split('_')[2]}" in shown.stdout, shown.stdout
