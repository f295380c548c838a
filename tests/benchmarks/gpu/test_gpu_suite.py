"""The GPU suite without a GPU: it measures what there is, says what is missing, and invents nothing."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from vprm_benchmarks.gpu.__main__ import main
from vprm_benchmarks.gpu.goals import goals, what_was_measured
from vprm_benchmarks.gpu.suite import Suite, SuiteOptions
from vprm_benchmarks.speed.arithmetic import LlmArithmetic
from vprm_runtime.engines.cuda.device import is_device_present

without_device = pytest.mark.skipif(is_device_present(), reason="this machine has a CUDA device")


@pytest.fixture(scope="module")
def report_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The suite's report at test width on this machine's CPU, and where it was written."""
    folder = tmp_path_factory.mktemp("gpu")
    sizes = ["--best-of", "2", "--prefill", "32", "--rounds", "1"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["--model", "tiny", "--out", str(folder), "--json", *sizes]) == 0
    return json.loads(out.getvalue().splitlines()[-1]), folder


@without_device
def test_suite_on_a_cpu(report_and_folder: tuple[dict[str, Any], Path]) -> None:
    report, folder = report_and_folder
    assert report == json.loads((folder / "gpu.json").read_text())
    assert report["finished"]
    assert sorted(path.name for path in folder.iterdir()) == ["gpu.json", "gpu.png"]  # weights lie elsewhere
    assert (folder / "gpu.png").stat().st_size > 1000
    results = {entry["name"]: entry for entry in report["results"]}
    taking_part = [
        "PyTorch fp32, one pass a candidate",
        "PyTorch fp32, prefix reuse",
        "vprm, cpu, fp32",
    ]
    assert [name for name, entry in results.items() if entry["skipped"] is None] == taking_part
    for name in taking_part:
        assert set(results[name]["ms"]) == {"vision", "prefill 32", "best of 2"}
        assert results[name]["prefill"]["32"]["tokens_per_s"] > 0
        assert results[name]["difference_from_first"]["max"] < 1e-4
        assert results[name]["description"]
        assert "failed" not in results[name]
    assert results["PyTorch fp32, prefix reuse"]["rounds"] == 2  # takes its turn beside every engine
    for engine in ("cuda", "tensorrt", "tensorrt-rtx"):
        assert results[engine]["skipped"] == "there is no CUDA device"
    assert all(goal["value"] is None and goal["met"] is None for goal in report["goals"].values())
    assert report["measured_with"] == "Engines of this package that were measured: vprm, cpu, fp32."
    prompts = report["workload"]["prompt_tokens"]["2"]
    assert len(prompts) == 2
    assert all(
        300 < tokens - 13 * 4 < 600 for tokens in prompts
    )  # 13 tiles of 4 tokens, 10 steps of 30 and their turns


@without_device
def test_what_does_not_fit_the_time_is_left_out_and_said(tmp_path: Path) -> None:
    saved: list[str] = []
    options = SuiteOptions(tmp_path, "tiny", best_of=(2,), prefill_tokens=(16,), rounds=1)
    suite = Suite(options, save=lambda report: saved.append(json.dumps(report)))
    real, spent = suite.stages.elapsed_s, 0.0

    def elapsed() -> float:
        return real() + spent

    suite.stages.elapsed_s = elapsed  # type: ignore[method-assign]

    def say(text: str) -> None:
        nonlocal spent
        spent = 1000.0 if "export" in text else spent  # as if the export took this long

    suite.stages.say = say
    report = suite.run()
    results = {entry["name"]: entry for entry in report["results"]}
    assert results["PyTorch fp32, prefix reuse"]["ms"]["best of 2"] > 0
    assert results["vprm, cpu, fp32"]["skipped"].startswith("the time budget of 450 s: 10")
    assert report["measured_with"].startswith("No engine that this package deploys was measured on this device")
    # A run that is killed leaves the report of its last stage.
    first_with_times = json.loads(next(text for text in saved if '"best of 2"' in text))
    assert not first_with_times["finished"]
    assert len(saved) > 5


@without_device
def test_failures_of_a_contender_are_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, block: object, cache: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("vprm_runtime.engines.host.engine.HostEngine.forward", broken)
    report = Suite(SuiteOptions(tmp_path, "tiny", best_of=(2,), prefill_tokens=(16,), rounds=1)).run()
    results = {entry["name"]: entry for entry in report["results"]}
    assert results["vprm, cpu, fp32"]["failed"] == "RuntimeError: CUDA out of memory"
    assert results["PyTorch fp32, prefix reuse"]["ms"]["best of 2"] > 0


def test_goals_are_taken_from_measurements() -> None:
    def engine(kind: str, precision: str, rate: float, fraction: float) -> dict[str, object]:
        prefill = {"2048": {"tokens_per_s": rate, "fraction_of_peak": fraction}}
        return {"name": f"vprm, {kind}, {precision}", "skipped": None, "prefill": prefill, "ms": {"best of 8": 200.0}}

    torch = {"name": "PyTorch bf16, one pass a candidate", "skipped": None, "ms": {"best of 8": 1000.0}}
    rtx = {"name": "tensorrt-rtx", "skipped": "not installed"}
    cuda = [engine("cuda", "fp16", 90.0, 0.6)]
    tensorrt = [engine("tensorrt", "fp16", 100.0, 0.7), engine("tensorrt", "int8", 180.0, 0.5)]
    found = goals({"results": [torch, *cuda, *tensorrt, rtx]})
    assert [goal["value"] for goal in found.values()] == [0.7, 1.8, 200.0, 5.0]
    assert {goal["by"] for goal in found.values()} == {"vprm, tensorrt, fp16"}
    report = {"results": [torch, *cuda, rtx]}
    found = goals(report)
    assert [goal["value"] for goal in found.values()] == [0.6, None, 200.0, 5.0]
    assert {goal["by"] for goal in found.values()} == {"vprm, cuda, fp16"}
    assert what_was_measured(report) == "Engines of this package that were measured: vprm, cuda, fp16."
    assert what_was_measured({"results": [torch, rtx]}) == (
        "No engine that this package deploys was measured on this device (tensorrt-rtx: not installed)."
    )


def test_arithmetic_of_a_layer(checkpoint: Path) -> None:
    llm = LlmArithmetic.of(checkpoint)  # 3 layers, hidden 64, 4 heads and 2 of keys and values of 16, MLP 128
    assert llm.linear_flops_per_token == 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
    assert llm.prefill_flops(1, pruned=False) == 3 * (llm.linear_flops_per_token + 4 * 64)
    assert llm.prefill_flops(1, pruned=True) == 2 * (llm.linear_flops_per_token + 4 * 64) + 2 * 2 * 64 * 32


def test_without_a_device_the_full_model_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from argparse import Namespace

    from vprm_benchmarks.gpu import command
    from vprm_runtime import EngineError

    monkeypatch.setattr(command, "is_device_present", lambda: False)
    with pytest.raises(EngineError, match=r"no CUDA device.* --model 8b-slice or tiny"):
        command.run(Namespace(model="8b", out=tmp_path / "out", work=None))
    assert not list(tmp_path.iterdir())
