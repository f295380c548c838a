"""`vprm parity` is green on checkpoints as people have them, by the command itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from vprm_benchmarks.random_checkpoint import CheckpointSpec, make_slow, tiny_spec, write_random_checkpoint
from vprm_benchmarks.reference.model import load_model
from vprm_runtime.cli.main import main


def edited(directory: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def rope_parameters(config: dict[str, Any]) -> None:
    llm = config["llm_config"]
    llm["rope_parameters"] = {"rope_theta": llm.pop("rope_theta"), "rope_type": "default"}
    del llm["rope_scaling"]


def slow(directory: Path) -> Path:
    make_slow(directory)
    return directory


def overlay(directory: Path) -> Path:
    """The head in a file of its own, while the shard still has another one."""
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    name = "language_model.output.weight"
    head = load_file(directory / index["weight_map"][name])[name]
    save_file({name: head[:, ::-1].copy()}, directory / "overlay.safetensors")
    index["weight_map"][name] = "overlay.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def native(hub: Path) -> Path:
    import shutil

    import torch

    target = hub.parent / "native"
    load_model(hub, torch.float32, "cpu").save_pretrained(target)
    for file in hub.glob("*token*"):
        shutil.copy(file, target)
    return target


def made(directory: Path, spec: CheckpointSpec) -> Path:
    return write_random_checkpoint(directory / "checkpoint", spec)


FIELD: dict[str, Callable[[Path], Path]] = {
    "slow Qwen2 tokenizer": lambda d: slow(made(d, tiny_spec("qwen2"))),
    "transformers' own layout": lambda d: native(made(d, tiny_spec("qwen2"))),
    "use_thumbnail false": lambda d: edited(made(d, tiny_spec()), lambda config: config.update(use_thumbnail=False)),
    "dynamic_image_size false": lambda d: edited(
        made(d, tiny_spec()), lambda config: config.update(dynamic_image_size=False)
    ),
    "min_dynamic_patch 2": lambda d: edited(made(d, tiny_spec()), lambda config: config.update(min_dynamic_patch=2)),
    "rope_parameters": lambda d: edited(made(d, tiny_spec()), rope_parameters),
    "overlay index": lambda d: overlay(made(d, CheckpointSpec(max_shard_bytes=200_000))),
}


@pytest.mark.parametrize("kind", FIELD)
def test_parity_is_green(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = FIELD[kind](tmp_path)
    assert main(["export", str(checkpoint), str(tmp_path / "bundle"), "--precision", "fp32"]) == 0
    capsys.readouterr()
    assert main(["parity", str(tmp_path / "bundle"), "--checkpoint", str(checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["cases"] >= 15
