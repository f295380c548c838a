"""`vprm bench best-of-n` for real, on the demo PRM and on a stand-in for the 8 B slice at test width."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vprm_benchmarks.random_checkpoint import CheckpointSpec, tiny_spec, write_random_checkpoint
from vprm_benchmarks.speed import best_of_n, models
from vprm_benchmarks.speed.contenders.choice import DEFAULT_NAMES, choose_contenders
from vprm_benchmarks.speed.contenders.torch import TimedReference
from vprm_runtime import InputError, MissingExtraError, native
from vprm_runtime.cli.main import main

SIZE = ["--tiles", "3", "--candidates", "2", "--steps", "2", "--step-tokens", "6", "--rounds", "1", "--threads", "1"]


@pytest.fixture
def narrow_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """8b-slice at test width."""

    def small(layers: int, vision_layers: int) -> CheckpointSpec:
        spec = tiny_spec()
        return replace(spec, llm=replace(spec.llm, layers=layers), vision=replace(spec.vision, layers=vision_layers))

    monkeypatch.setattr(models, "visualprm_8b_spec", small)


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
        assert (entry.get("fraction_of_physical_peak", 0) > 0) == (native.level() is not None)
        assert found["accuracy"][name]["mean_difference"] <= (1e-5 if name.endswith("fp32") else 0.05)
    assert found["ratios"]["torch_per_step_bf16_over_vprm_int8"] > 0
    assert found["goals"] == {}  # they are of the 8 B slice


def test_two_depths_of_the_slice_give_the_full_one(capsys: pytest.CaptureFixture[str], narrow_slice: None) -> None:
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


def test_depths_take_turns_in_the_same_rounds(narrow_slice: None) -> None:
    names = ["torch_prefix_fp32", "vprm_fp32"]
    said: list[str] = []
    asked = argparse.Namespace(
        model="8b-slice", layers=4, vision_layers=2, tiles=3, candidates=2, steps=2, step_tokens=6, rounds=3,
        contenders=names, threads=1, roofline_size=64, peers=False,
    )  # fmt: skip
    best_of_n.run(asked, lambda text, done=0, total=None: said.append(text))
    turns = [text for text in said if text.startswith("round ")]
    both = {turn for name in names for turn in (name, f"{name}, 2 + 1 layers")}
    for number in range(3):
        assert {text.split(": ")[1] for text in turns[4 * number : 4 * number + 4]} == both
        assert all(text.startswith(f"round {number + 1} of 3") for text in turns[4 * number : 4 * number + 4])


def test_fewer_layers_of_a_reference_are_its_first_ones_and_no_copies(tmp_path: Path) -> None:
    spec = tiny_spec()
    write_random_checkpoint(tmp_path, spec)
    whole = TimedReference.load(tmp_path)
    half = whole.with_depth(1, 1)
    language, vision = half.model.model.language_model.layers, half.model.model.vision_tower.encoder.layer
    assert (len(language), len(vision)) == (1, 1)
    assert len(whole.model.model.language_model.layers) == spec.llm.layers > 1
    assert language[0].mlp.down_proj.weight is whole.model.model.language_model.layers[0].mlp.down_proj.weight
