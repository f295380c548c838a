"""`vprm doctor`: what it finds on this machine, and what it says of machines that lack something."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from vprm_runtime import diagnosis, machine
from vprm_runtime.cli.doctor import _verdict
from vprm_runtime.cli.main import main
from vprm_runtime.diagnosis import Diagnosis, Finding, diagnose
from vprm_runtime.machine import Gpu, Machine, gpus, gpus_of

L4 = "NVIDIA L4, 8.9, 23034, 550.54.15\n"


def find(found: Diagnosis, area: str) -> Finding:
    return next(finding for finding in found.findings if finding.area == area)


def test_this_machine_can_score_on_its_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is True
    assert "cpu" in shown["devices"]
    assert shown["machine"]["cores"] >= 1
    areas = {finding["area"] for finding in shown["findings"]}
    assert {"cpu", "memory", "engine cpu", "images", "cache folder", "disk", "extra export"} <= areas


def test_the_table_names_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "vprm optimize CHECKPOINT BUNDLE" in " ".join(capsys.readouterr().out.split())


def test_a_cache_folder_that_cannot_be_written_to_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("no folder")
    monkeypatch.setenv("VPRM_CACHE", str(taken / "below"))
    finding = find(diagnose(), "cache folder")
    assert finding.state == "broken"
    assert "VPRM_CACHE" in finding.mend
    assert main(["doctor"]) == 1


def test_looking_leaves_nothing_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VPRM_CACHE", str(tmp_path))
    diagnose()
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_cannot_be_imported_is_broken_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise OSError('libfoo.so: cannot open')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    finding = find(diagnose(), "engine cpu")
    assert finding.state == "broken"
    assert "libfoo.so" in finding.text
    assert finding.mend


def test_nvidia_smi_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nprintf '{L4}'\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus() == (Gpu("NVIDIA L4", 89, 23034 << 20, "550.54.15"),)
    found = diagnose()
    assert find(found, "gpu").state == "ok"
    assert find(found, "engine cuda").state in ("missing", "ok", "broken")


def test_the_next_command_is_one_that_runs() -> None:
    lean = Machine("Linux", "x86_64", "CPU", 2, (), 1 << 34, ())
    missing = Finding("extra optimize", "note", "not installed: onnx-ir", "pip install 'vprm[optimize]'")
    assert "pip install 'vprm[optimize]'" in _verdict(Diagnosis(lean, (missing,), ("cpu",)))
    assert "pip install" not in _verdict(Diagnosis(lean, (), ("cpu",)))


def test_without_a_gpu_nothing_is_to_be_installed_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(diagnosis, "installed_version", lambda name: "1.0" if name == "onnxruntime" else None)
    findings = [diagnosis._gpu_library("tensorrt", "tensorrt", "tensorrt", has_gpu=False), diagnosis._ort_cuda(False)]
    assert [(finding.state, finding.mend) for finding in findings] == [("note", ""), ("note", "")]
    ahead = diagnosis._gpu_library("tensorrt-rtx", "tensorrt_rtx", "tensorrt-rtx-cu13", has_gpu=False)
    assert ahead.state == "note" and ahead.mend and "ahead of time" in ahead.text


def test_onnxruntime_for_cpus_is_removed_before_the_one_for_gpus_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "installed_version", lambda name: "1.0" if name == "onnxruntime" else None)
    found = diagnosis._ort_cuda(True)
    assert found.state == "missing"
    assert found.mend == "pip uninstall -y onnxruntime && pip install 'vprm[cuda]'"


@pytest.mark.parametrize("text", ["", "No devices were found\n", "NVIDIA, H100, 9.0\n", "X, [N/A], 1, 2\n"])
def test_what_nvidia_smi_says_instead_of_gpus_is_none(text: str) -> None:
    assert gpus_of(text) == ()


def test_a_name_with_commas_is_read() -> None:
    assert gpus_of("Card, with comma, 12.0, 32000, 580.1\n")[0].compute_capability == 120


def test_a_capable_cpu_without_the_native_library_is_told_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.native, "level", lambda: None)
    able = Machine("Linux", "x86_64", "CPU", 2, ("avx512_vnni",), 1 << 34, ())
    assert diagnosis._native_finding(able).state == "missing"
    plain = Machine("Linux", "x86_64", "CPU", 2, ("avx2",), 1 << 34, ())
    assert diagnosis._native_finding(plain).state == "note"


def test_memory_is_no_more_than_the_machine_has() -> None:
    total, free = machine.memory_bytes(), machine.available_memory_bytes()
    assert total is not None and free is not None
    assert 0 < free <= total
