"""`vprm bench best-of-n` for real, on the demo PRM and on a stand-in for the 8 B slice at test width."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from vprm_benchmarks.random_checkpoint import CheckpointSpec, tiny_spec
from vprm_benchmarks.speed import models
from vprm_benchmarks.speed.contenders.choice import DEFAULT_NAMES, choose_contenders
from vprm_runtime import InputError, MissingExtraError
from vprm_runtime.cli.main import main

SIZE = ["--tiles", "3", "--candidates", "2", "--steps", "2", "--step-tokens", "6", "--rounds", "1", "--threads", "1"]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["bench", "best-of-n", *SIZE, *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys)
    assert set(found) == {"benchmark", "settings", "roofline", "contenders", "ratios", "goals", "accuracy"}
    assert {"tflops", "memory_gb_per_s", "threads", "machine"} <= set(found["roofline"])
    default = DEFAULT_NAMES["demo"]
    assert set(found["contenders"]) == set(default)
    ran = {name for name, entry in found["contenders"].items() if "skipped" not in entry}
    assert ran >= {name for name in default if name.startswith("torch")} | {"vprm_fp32", "vprm_int8"}
    for name in ran:
        entry = found["contenders"][name]
        assert 0 < entry["vision_s"] < entry["median_s"]
        assert found["accuracy"][name]["mean_difference"] <= (1e-5 if name.endswith("fp32") else 0.05)
    assert found["ratios"]["torch_per_step_bf16_over_vprm_int8"] > 0
    assert found["goals"] == {}  # they are of the 8 B slice


def test_two_depths_of_the_slice_give_the_full_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(layers: int, vision_layers: int) -> CheckpointSpec:
        spec = tiny_spec()
        return replace(spec, llm=replace(spec.llm, layers=layers), vision=replace(spec.vision, layers=vision_layers))

    monkeypatch.setattr(models, "visualprm_8b_spec", small)
    names = ["torch_prefix_fp32", "vprm_fp32"]
    depths = ["--model", "8b-slice", "--layers", "4", "--vision-layers", "2", "--rounds", "3"]
    found = document(capsys, *depths, "--contenders", *names)
    for name in names:
        entry = found["contenders"][name]
        if "full_depth_error" in entry:  # at this width a layer is less than a busy machine's noise
            assert "took" in entry["full_depth_error"] and "full_depth_s" not in entry
            return
        language = entry["language_s"] + 28 * (entry["language_s"] - entry["half_depth"]["language_s"]) / 2
        vision = entry["vision_s"] + 22 * (entry["vision_s"] - entry["half_depth"]["vision_s"])
        assert entry["full_depth_vision_s"] == pytest.approx(vision)
        assert entry["full_depth_s"] == pytest.approx(vision + language)
    full = [found["contenders"][name]["full_depth_s"] for name in names]
    assert found["ratios"] == {"torch_prefix_fp32_over_vprm_fp32": pytest.approx(full[0] / full[1])}
    assert found["goals"]["torch_prefix_fp32_over_vprm_fp32"]["bar"] == 1.0
    assert found["accuracy"]["vprm_fp32"]["max_difference"] < 1e-5


def test_contenders_that_cannot_take_part_are_skipped_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    names, absent = choose_contenders(None, "demo")
    assert set(absent) == {"openvino_prefix_bf16", "vprm_bf16", "vprm_int8_openvino"}
    assert set(names) | set(absent) == set(DEFAULT_NAMES["demo"])
    assert "pip install 'vprm[openvino]'" in absent["vprm_bf16"]
    assert choose_contenders(["vprm_int8"], "8b-slice") == (("vprm_int8",), {})
    with pytest.raises(MissingExtraError, match=r"missing for contender vprm_bf16: .*vprm\[openvino\]"):
        choose_contenders(["vprm_int8", "vprm_bf16"], "8b-slice")
    with pytest.raises(InputError, match="unknown contender 'abacus': there are torch_per_step_bf16"):
        choose_contenders(["abacus"], "demo")
