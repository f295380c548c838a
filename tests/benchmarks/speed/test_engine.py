"""`vprm bench engine` for real, on the demo PRM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vprm_benchmarks.speed.arithmetic import LlmArithmetic, vision_flops_per_tile
from vprm_runtime.cli.main import main


def test_engine_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--tokens", "48", "--chunks", "16", "48", "--rounds", "1", "--threads", "1", "--step-tokens", "4"]
    assert main(["bench", "engine", *sizes, "--json", "--plot", str(tmp_path / "plot.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    every = ("cpu_fp32", "cpu_int8", "cpu_int8_standard", "openvino_fp16")
    engines = [name for name in every if name not in found["contenders"]]
    assert tuple(engines[:3]) == every[:3]  # a name by itself is one that was skipped
    for name in engines:
        for case in ("chunk_16", "chunk_48", "step_4", "vision"):
            entry = found["contenders"][f"{name}_{case}"]
            assert entry["fraction_of_peak"] > 0
            if case == "vision":
                assert entry["ms_per_tile"] == pytest.approx(1e3 * entry["median_s"])
            elif case == "step_4":
                assert entry["ms_per_step"] == pytest.approx(1e3 * entry["median_s"])
            else:
                assert entry["tokens_per_s"] == pytest.approx(48 / entry["median_s"])
        assert found["accuracy"][name]["max_logit_difference_in_rms"] < (1e-4 if name == "cpu_fp32" else 0.7)
    assert set(found["ratios"]) == {f"cpu_fp32_over_{name}" for name in engines[1:]} | {
        f"cpu_fp32_step_4_over_{name}_step_4" for name in engines[1:]
    }
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_unknown_engines_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--engines", "abacus"]) == 2
    assert "unknown contender 'abacus': there are cpu_fp32" in capsys.readouterr().err


def test_arithmetic_of_a_tile_at_the_8b_shapes() -> None:
    checkpoint = Path(__file__).parents[2] / "data" / "visualprm_8b"
    linears = 24 * 2 * 1025 * 12 * 1024**2 + 2 * 1024 * 588 * 1024 + 2 * 256 * (4096**2 + 4096**2)
    attention = 24 * 4 * 1025**2 * 1024
    assert vision_flops_per_tile(checkpoint) == linears + attention == pytest.approx(0.74e12, rel=0.01)


def test_arithmetic_of_steps_and_requests() -> None:
    llm = LlmArithmetic(3, linear_flops_per_token=100, kv_flops_per_token=10, attention_flops_per_pair=1)
    assert llm.step_flops(2, 5) == 2 * (200 + 6 + 7) + 20 + 90 + 7
    assert llm.best_of_n_flops(4, [1, 2]) == 3 * (700 + (1 + 2 + 3 + 4) + 5 + (5 + 6))
