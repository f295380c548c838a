"""The GPU suite without a GPU: it measures what there is, says what is missing, and invents nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vprm_benchmarks.gpu.__main__ import main
from vprm_benchmarks.gpu.suite import goals
from vprm_benchmarks.gpu.workload import LlmArithmetic, workload
from vprm_runtime.engines.trt.cuda_device import is_device_present


@pytest.mark.skipif(is_device_present(), reason="this machine has a CUDA device")
def test_suite_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--best-of", "2", "--prefill", "32", "--rounds", "1"]
    assert main(["--model", "tiny", "--out", str(tmp_path), "--json", *sizes]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads((tmp_path / "gpu.json").read_text())
    assert (tmp_path / "gpu.png").stat().st_size > 1000
    results = {entry["name"]: entry for entry in report["results"]}
    taking_part = ["PyTorch fp32, one pass a candidate", "PyTorch fp32, prefix reuse", "vprm, cpu, fp32"]
    assert [name for name, entry in results.items() if entry["skipped"] is None] == taking_part
    for name in taking_part:
        assert set(results[name]["ms"]) == {"vision", "prefill 32", "best of 2"}
        assert results[name]["prefill"]["32"]["tokens_per_s"] > 0
        assert results[name]["difference_from_first"]["max"] < 1e-4
        assert "failed" not in results[name]
    for engine in ("cuda", "tensorrt", "tensorrt-rtx"):
        assert results[engine]["skipped"] == "there is no CUDA device"
    assert all(goal["measured"] is None for goal in report["goals"])
    assert len(report["workload"]["prompt_tokens"]["2"]) == 2


def test_goals_are_taken_from_measurements() -> None:
    def engine(precision: str, rate: float, fraction: float) -> dict[str, object]:
        prefill = {"2048": {"tokens_per_s": rate, "fraction_of_peak": fraction}}
        return {"name": f"vprm, tensorrt, {precision}", "prefill": prefill, "ms": {"best of 8": 200.0}}

    torch = {"name": "PyTorch bf16, one pass a candidate", "ms": {"best of 8": 1000.0}}
    found = goals(
        {"results": [torch, engine("fp16", 100.0, 0.7), engine("int8", 180.0, 0.5), {"name": "tensorrt-rtx"}]}
    )
    assert [goal["measured"] for goal in found] == [0.7, 1.8, 200.0, 5.0]


def test_arithmetic_of_a_layer(checkpoint: Path) -> None:
    llm = LlmArithmetic.of(checkpoint)  # 3 layers, hidden 64, 4 heads and 2 of keys and values of 16, MLP 128
    assert llm.linear_flops_per_token == 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
    assert llm.prefill_flops(1, pruned=False) == 3 * (llm.linear_flops_per_token + 4 * 64)
    assert llm.prefill_flops(1, pruned=True) == 2 * (llm.linear_flops_per_token + 4 * 64) + 2 * 2 * 64 * 32


def test_workload_is_the_same_every_time() -> None:
    one, two = workload(3, 56), workload(3, 56)
    assert (one.candidates, one.image.tobytes()) == (two.candidates, two.image.tobytes())
    assert (one.image.size, [len(steps) for steps in one.candidates]) == ((224, 168), [10, 10, 10])
