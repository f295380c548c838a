"""GPUs that are not here: which card a name means, engines that are built ahead of time, and what the report admits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import vprm_demo
from vprm_optimize import engines
from vprm_optimize.engines import AHEAD_OF_TIME, builder_for
from vprm_optimize.targets import find_target
from vprm_runtime import Bundle
from vprm_runtime.cli.main import main
from vprm_runtime.machine import Gpu, Machine

CHECKPOINT = str(vprm_demo.checkpoint_dir())


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """24 best-of-2 questions."""
    return vprm_demo.best_of_n_rows(24, n_responses=2, cache_dir=tmp_path / "rows")


def machine(*gpus: str) -> Machine:
    return Machine("Linux", "x86_64", "CPU", 2, (), 1 << 34, tuple(Gpu(name, 89, 24 << 30, "580") for name in gpus))


@pytest.mark.parametrize(
    ("name", "driver", "other"),
    [
        ("l4", "NVIDIA L4", "NVIDIA L40S"),
        ("l40s", "NVIDIA L40S", "NVIDIA L4"),
        ("a100", "NVIDIA A100-SXM4-80GB", "NVIDIA A10"),
        ("h100", "NVIDIA H100 80GB HBM3", "NVIDIA H200"),
        ("rtx-40", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 5090"),
        ("rtx-50", "NVIDIA GeForce RTX 5070 Ti", "NVIDIA RTX 5000 Ada Generation"),
    ],
)
def test_a_card_is_known_by_what_its_driver_calls_it(name: str, driver: str, other: str) -> None:
    assert find_target(name, machine(driver)).runs_here
    assert find_target(name, machine(driver)).title == driver
    assert not find_target(name, machine(other)).runs_here
    assert not find_target(name, machine()).runs_here


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: True if name in names else None)


def test_without_a_builder_the_command_that_makes_engines_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    out = Path("my bundle")
    l4 = builder_for(find_target("l4", machine()), "latency")
    assert l4.library is None
    assert l4.advice(out).endswith(
        "pip install 'vprm[tensorrt-rtx]'  and run  vprm build 'my bundle' --engine tensorrt-rtx --sm 89"
    )
    h100 = builder_for(find_target("h100", machine()), "throughput")
    assert h100.advice(out).endswith(
        "on the machine with the H100, after  pip install 'vprm[export,tensorrt]' , run  "
        "vprm build 'my bundle' --engine tensorrt --profile throughput"
    )
    here = builder_for(find_target("l4", machine("NVIDIA L4")), "latency")
    assert here.advice(out).endswith("vprm build 'my bundle' --engine tensorrt")
    installed(monkeypatch, "tensorrt")
    assert builder_for(find_target("l4", machine("NVIDIA L4")), "latency").library == "tensorrt"
    assert builder_for(find_target("l4", machine()), "latency").library is None


def test_tensorrt_rtx_builds_for_the_cards_that_it_knows() -> None:
    pytest.importorskip("tensorrt_rtx")
    from vprm_compile.callbacks import supported_capabilities
    from vprm_runtime.engines.cuda.tensorrt.graph import import_tensorrt

    assert tuple(sorted(supported_capabilities(import_tensorrt("tensorrt-rtx")))) == AHEAD_OF_TIME
    built = {name: builder_for(find_target(name, machine()), "latency").library for name in ("l4", "a100", "rtx-50")}
    assert set(built.values()) == {"tensorrt-rtx"}
    h100 = builder_for(find_target("h100", machine()), "latency")
    assert h100.library is None and "not for 9.0" in h100.why_not


def test_an_engine_is_in_the_bundle_and_the_report_lists_what_was_not_measured(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    budget = tmp_path / "open.json"
    budget.write_text('{"mean_error": 1, "f1_change": 1, "flips_outside": 1}')
    output = tmp_path / "bundle"
    arguments = ["optimize", CHECKPOINT, str(output), "--data", str(rows), "--for", "a100", "--max-rows", "2"]
    assert main([*arguments, "--budget", str(budget), "--json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert "build engines" in shown.err  # in the plan
    assert report["engine"]["built"] and report["engine"]["problems"] == []
    assert Bundle.open(output, verify=True).manifest.graphs.llm.precision == "int8"
    folder = output / report["engine"]["folder"]
    assert folder.name == "tensorrt-rtx-sm80" and (folder / "llm.engine").stat().st_size > 0
    assert report["engine"]["command"] in report["commands"]
    stages = {stage["name"]: stage for stage in report["took"]["stages"]}
    assert stages["build engines"]["estimated_s"] > 0
    not_measured = " ".join(report["not_measured"])
    assert f"vprm bench bundles {output}" in not_measured and f"vprm quality {output}" in not_measured
    assert "no engine" not in not_measured
    assert main(["inspect", str(output)]) == 0
    assert "sm80" in capsys.readouterr().out


def test_without_an_engine_the_report_has_the_command(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if "tensorrt" in name else found(name))
    output = tmp_path / "bundle"
    arguments = ["optimize", CHECKPOINT, str(output), "--data", str(rows), "--for", "l4", "--goal", "exact"]
    assert main([*arguments, "--max-rows", "2"]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "no engine will be built" in shown and "build engines" not in shown
    report = json.loads((output / "report.json").read_text("utf-8"))
    assert report["engine"]["built"] is False
    assert any("no engine for L4" in line and "--sm 89" in line for line in report["not_measured"])
