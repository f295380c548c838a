"""Parity must fail, and name the stage, when one of the usual silent mistakes is planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tests.benchmarks.conftest import MakeBundle, MakeCheckpoint

from vprm_benchmarks.parity.api import ParityOptions, run_parity
from vprm_benchmarks.random_checkpoint import tiny_spec
from vprm_export import ExportOptions, export_bundle
from vprm_runtime.bundle.manifest import Precision
from vprm_runtime.engines.host.onnxruntime import OrtEngine
from vprm_runtime.prompt.builder import PromptBuilder, TokenisedPrompt

FEW = ParityOptions(threads=1, limit=3)


@pytest.fixture
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """A float32 checkpoint in one file."""
    return make_checkpoint(tiny_spec())


@pytest.fixture
def bundle(checkpoint: Path, make_bundle: MakeBundle, tmp_path: Path) -> Path:
    """A copy of its bundle, to be spoilt."""
    return Path(shutil.copytree(make_bundle(checkpoint, ExportOptions()), tmp_path / "bundle"))


def _failed_stages(bundle: Path, checkpoint: Path) -> list[str]:
    report = run_parity(bundle, checkpoint, FEW)
    assert not report.passed
    return [stage.stage for stage in report.stages if not stage.passed]


def _edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    edit(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_nothing_planted_passes(bundle: Path, checkpoint: Path) -> None:
    assert run_parity(bundle, checkpoint, FEW).passed


def test_tokens_per_tile_off_by_one(bundle: Path, checkpoint: Path) -> None:
    _edit_manifest(bundle, lambda manifest: manifest["model"].update(tokens_per_tile=5))
    report = run_parity(bundle, checkpoint, FEW)
    failed = {stage.stage: stage.problems for stage in report.stages if not stage.passed}
    assert list(failed) == ["token_ids"]
    assert "tokens_per_tile" in failed["token_ids"][0]


def test_system_message_changed(bundle: Path, checkpoint: Path) -> None:
    _edit_manifest(bundle, lambda manifest: manifest["prompt"].update(system_message="Judge each step."))
    assert _failed_stages(bundle, checkpoint)[0] == "token_ids"


def test_system_message_changed_on_both_sides_passes(bundle: Path, checkpoint: Path) -> None:
    _edit_manifest(bundle, lambda manifest: manifest["prompt"].update(system_message="Be strict."))
    assert run_parity(bundle, checkpoint, ParityOptions(threads=1, limit=3, system_message="Be strict.")).passed


def test_score_position_one_late(bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = PromptBuilder.build

    def late(self: PromptBuilder, *args: Any) -> TokenisedPrompt:
        prompt = build(self, *args)
        return TokenisedPrompt(prompt.ids, tuple(position + 1 for position in prompt.score_positions))

    monkeypatch.setattr(PromptBuilder, "build", late)
    failed = _failed_stages(bundle, checkpoint)
    assert {"score_positions", "step_logits", "step_scores"} <= set(failed)
    assert "tile_pixels" not in failed


def test_blue_and_red_swapped_in_the_tiles(bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vprm_runtime.execution import prepare

    tile_image = prepare.tile_image

    def swapped(*args: Any) -> NDArray[np.uint8]:
        return np.ascontiguousarray(tile_image(*args)[..., ::-1])

    monkeypatch.setattr(prepare, "tile_image", swapped)
    failed = _failed_stages(bundle, checkpoint)
    assert failed[0] == "tile_pixels"
    assert "token_ids" not in failed


def test_blue_and_red_swapped_inside_the_engine(
    bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_tiles = OrtEngine.encode_tiles

    def swapped(self: OrtEngine, tiles: NDArray[np.uint8]) -> Any:
        return encode_tiles(self, np.ascontiguousarray(tiles[..., ::-1]))

    monkeypatch.setattr(OrtEngine, "encode_tiles", swapped)
    assert _failed_stages(bundle, checkpoint)[0] == "image_embeddings"


def test_rope_base_changed(checkpoint: Path, tmp_path: Path) -> None:
    spoilt = _copy(checkpoint, tmp_path)
    config = json.loads((spoilt / "config.json").read_text())
    config["llm_config"]["rope_theta"] = 500_000
    (spoilt / "config.json").write_text(json.dumps(config))
    assert _export_and_fail(spoilt, checkpoint, tmp_path)[0] == "step_logits"


@pytest.mark.parametrize(
    ("tensor", "stage"),
    [
        ("language_model.model.layers.1.feed_forward.w1.weight", "step_logits"),
        ("language_model.model.layers.2.attention.wqkv.weight", "step_logits"),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "image_embeddings"),
    ],
)
def test_two_rows_of_one_weight_swapped(tensor: str, stage: str, checkpoint: Path, tmp_path: Path) -> None:
    spoilt = _copy(checkpoint, tmp_path)
    tensors = load_file(spoilt / "model.safetensors")
    tensors[tensor] = tensors[tensor].copy()
    tensors[tensor][[3, 4]] = tensors[tensor][[4, 3]]
    save_file(tensors, spoilt / "model.safetensors")
    assert _export_and_fail(spoilt, checkpoint, tmp_path)[0] == stage


def test_rope_base_changed_is_seen_in_float16_too(checkpoint: Path, tmp_path: Path) -> None:
    spoilt = _copy(checkpoint, tmp_path)
    config = json.loads((spoilt / "config.json").read_text())
    config["llm_config"]["rope_theta"] = 500_000
    (spoilt / "config.json").write_text(json.dumps(config))
    assert "step_logits" in _export_and_fail(spoilt, checkpoint, tmp_path, "fp16")


def _copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "spoilt"))


def _export_and_fail(spoilt: Path, checkpoint: Path, tmp_path: Path, precision: Precision = "fp32") -> list[str]:
    export_bundle(spoilt, tmp_path / "spoilt-bundle", ExportOptions(precision=precision))
    return _failed_stages(tmp_path / "spoilt-bundle", checkpoint)
