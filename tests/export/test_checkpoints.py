"""Checkpoints that are incomplete, damaged or of another kind: an error that names the culprit, and no half bundle."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests.support.checkpoints import refused

from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint
from vprm_export import ExportOptions, export_bundle
from vprm_export.checkpoint import Checkpoint
from vprm_export.external_data import ExternalData
from vprm_export.no_weights import INDEX_NAME, SINGLE_NAME
from vprm_runtime import BundleError, CheckpointError, UnsupportedError
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.cli.main import main


@pytest.fixture
def checkpoint(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage: one file, float32."""
    return Path(shutil.copytree(random_checkpoint("internlm2"), tmp_path / "checkpoint"))


def edit_config(checkpoint: Path, section: str | None, **values: object) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    part = config if section is None else config[section]
    part.update(values)
    path.write_text(json.dumps(config))


def edit_tensors(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(checkpoint / SINGLE_NAME)
    change(tensors)
    save_file(tensors, checkpoint / SINGLE_NAME)


WQKV = "language_model.model.layers.1.attention.wqkv.weight"


def test_missing_tensor(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.pop(WQKV))
    refused(checkpoint, CheckpointError, WQKV, "incomplete")


def test_misshapen_tensor(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.update({WQKV: tensors[WQKV][:-1].copy()}))
    refused(checkpoint, CheckpointError, WQKV, "[127, 64]", "[128, 64]")


def test_unexpected_tensor(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.update({"value_head.weight": np.zeros((2, 2), np.float32)}))
    refused(checkpoint, CheckpointError, "value_head.weight", "refusing to drop weights")


@pytest.mark.parametrize(
    "name",
    [
        "language_model.base_model.model.model.layers.0.attention.wqkv.lora_A.default.weight",
        "vision_model.base_model.model.encoder.layers.0.attn.qkv.base_layer.weight",
        "language_model.model.layers.0.attention.wo.lora_B.weight",
        "base_model.model.mlp1.1.lora_embedding_A.default",
    ],
)
def test_an_adapter_that_was_not_merged(checkpoint: Path, name: str) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.update({name: np.zeros((2, 2), np.float32)}))
    refused(checkpoint, CheckpointError, name, "was not merged", "merge_and_unload")


def test_integer_tensor(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.update({WQKV: tensors[WQKV].astype(np.int8)}))
    refused(checkpoint, CheckpointError, WQKV, "I8", "BF16, F16, F32")


def test_truncated_shard(checkpoint: Path) -> None:
    file = checkpoint / SINGLE_NAME
    content = file.read_bytes()
    for keep in (len(content) - 1, 1000, 7, 0):
        file.write_bytes(content[:keep])
        refused(checkpoint, CheckpointError, SINGLE_NAME, "copy it again")
    file.unlink()
    refused(checkpoint, CheckpointError, SINGLE_NAME, INDEX_NAME, "hf download")


def test_missing_shard_and_wrong_index(tmp_path: Path) -> None:
    sharded = write_random_checkpoint(tmp_path / "sharded", tiny_spec().__class__(max_shard_bytes=200_000))
    index = json.loads((sharded / INDEX_NAME).read_text())
    assert len(set(index["weight_map"].values())) > 1
    export_bundle(sharded, tmp_path / "whole")
    first, *_, last = sorted(set(index["weight_map"].values()))
    name = next(tensor for tensor, file in index["weight_map"].items() if file == first)
    moved = {**index, "weight_map": {**index["weight_map"], name: last}}
    (sharded / INDEX_NAME).write_text(json.dumps(moved))
    refused(sharded, CheckpointError, last, name)
    (sharded / INDEX_NAME).write_text(json.dumps(index))
    (sharded / last).unlink()
    refused(sharded, CheckpointError, last, "missing")


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (None, {"template": "vicuna_v1"}, ("template", "vicuna_v1", "internvl2_5")),
        (None, {"model_type": "llava"}, ("model_type", "llava")),
        (None, {"architectures": ["PhiReward"]}, ("PhiReward",)),
        (None, {"ps_version": "v3"}, ("ps_version", "v3")),
        (None, {"downsample_ratio": 0.3}, ("downsample_ratio",)),
        (None, {"select_layer": -9}, ("select_layer",)),
        ("llm_config", {"model_type": "phi3"}, ("llm_config", "phi3", "internlm2")),
        ("llm_config", {"hidden_act": "gelu"}, ("hidden_act", "silu")),
        ("llm_config", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, ("rope_scaling", "yarn")),
        ("llm_config", {"num_hidden_layers": 0}, ("num_hidden_layers", "at least 1")),
        ("llm_config", {"hidden_size": "64"}, ("hidden_size", "'64'")),
        ("vision_config", {"norm_type": "batch_norm"}, ("norm_type", "batch_norm")),
    ],
)
def test_unsupported_configurations_name_the_key(
    checkpoint: Path, section: str | None, values: dict[str, object], words: tuple[str, ...]
) -> None:
    edit_config(checkpoint, section, **values)
    refused(checkpoint, (UnsupportedError, CheckpointError), "config.json", *words)  # type: ignore[arg-type]


def test_configuration_of_another_size(checkpoint: Path) -> None:
    edit_config(checkpoint, "llm_config", intermediate_size=256)
    refused(checkpoint, CheckpointError, "feed_forward", "config.json and weights are not of the same model")


def test_a_system_message_from_a_file_loses_what_editors_add(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    """A byte order mark and one final newline; other blanks are the user's."""
    file = tmp_path / "system.txt"
    for number, (content, expected) in enumerate(
        [
            (b"\xef\xbb\xbfJudge.\n", "Judge."), (b"Judge.\r\nAll.\r\n", "Judge.\nAll."), (b"Judge.", "Judge."),
            (b" Judge. \n\n", " Judge. \n"), ("判断。\n".encode(), "判断。"),
        ]
    ):  # fmt: skip
        file.write_bytes(content)
        assert main(["export", str(checkpoint), str(tmp_path / str(number)), "--system-message", f"@{file}"]) == 0
        assert Bundle.open(tmp_path / str(number)).manifest.prompt.system_message == expected
        assert repr(expected) in capsys.readouterr().err
    file.write_bytes("Judge.".encode("utf-16"))
    assert main(["export", str(checkpoint), str(tmp_path / "x"), "--system-message", f"@{file}"]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_files_that_are_not_there_or_not_json(checkpoint: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", CheckpointError, "nowhere")
    for name in ("config.json", "tokenizer_config.json"):
        text = (checkpoint / name).read_text()
        (checkpoint / name).write_text("{broken")
        refused(checkpoint, CheckpointError, name, "not JSON")
        (checkpoint / name).unlink()
        refused(checkpoint, CheckpointError, name, "missing")
        (checkpoint / name).write_text(text)
    (checkpoint / "tokenizer.model").write_bytes(b"no protobuf")
    refused(checkpoint, CheckpointError, "tokenizer.model")
    (checkpoint / "tokenizer.model").unlink()
    refused(checkpoint, CheckpointError, "neither tokenizer.json, nor tokenizer.model")


def test_values_that_float16_cannot_hold(checkpoint: Path) -> None:
    def enlarge(tensors: dict[str, Any]) -> None:
        tensors[WQKV][3, 5] = 1e6

    edit_tensors(checkpoint, enlarge)
    refused(checkpoint, UnsupportedError, "float16", "--precision fp32", precision="fp16")
    export_bundle(checkpoint, checkpoint.parent / "fp32")


def test_full_disk(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(checkpoint)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    refused(checkpoint, BundleError, "10 bytes free", "make room")
    monkeypatch.undo()

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ExternalData, "write", no_space)
    refused(checkpoint, BundleError, "vision.onnx.data", "the disk is full")


def test_a_write_that_fails_half_way(checkpoint: Path) -> None:
    """The kernel refuses files above 100 kB: a real failure in the middle of a weight."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        refused(checkpoint, BundleError, "onnx.data", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_existing_target_is_not_touched(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "existing"
    target.mkdir()
    (target / "precious.txt").write_text("keep me")
    with pytest.raises(BundleError, match="exists already"):
        export_bundle(checkpoint, target)
    assert (target / "precious.txt").read_text() == "keep me"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_tensor_dtypes_read_exactly(tmp_path: Path, dtype: str) -> None:
    spec = tiny_spec()
    path = write_random_checkpoint(tmp_path / "checkpoint", type(spec)(llm=spec.llm, vision=spec.vision, dtype=dtype))  # type: ignore[arg-type]
    ours = Checkpoint.open(path)
    with safe_open(path / SINGLE_NAME, framework="np") as theirs:
        assert set(theirs.keys()) == set(ours.tensors)
        for name in ours.tensors:
            values = ours.read(name)
            assert values.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
            np.testing.assert_array_equal(values.astype(np.float32), theirs.get_tensor(name).astype(np.float32))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, value: float, dtype: str) -> None:
    """One among all, in whatever type it is stored, in a Linear, an embedding, a norm or the patch kernel."""
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    spec = tiny_spec()
    path = write_random_checkpoint(tmp_path / "checkpoint", type(spec)(llm=spec.llm, vision=spec.vision, dtype=dtype))  # type: ignore[arg-type]
    whole = load_torch(path / SINGLE_NAME)
    names = [WQKV, "language_model.model.tok_embeddings.weight", "language_model.model.norm.weight", "mlp1.1.bias",
             "vision_model.embeddings.patch_embedding.weight", "language_model.output.weight"]  # fmt: skip
    for name in names:
        damaged = {key: tensor.clone() for key, tensor in whole.items()}
        damaged[name].view(-1)[-3] = value
        assert not torch.isfinite(damaged[name]).all()
        save_torch(damaged, path / SINGLE_NAME)
        refused(path, CheckpointError, name, "NaN or infinite", "--allow-nonfinite")
    export_bundle(path, tmp_path / "allowed", ExportOptions(allow_nonfinite=True))


def test_inspect_shows_what_was_read_and_assumed(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    edit_config(checkpoint, None, force_image_size=None)
    assert main(["export", str(checkpoint), str(tmp_path / "bundle")]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "(" in line]
    assert main(["inspect", str(tmp_path / "bundle")]) == 0
    shown = capsys.readouterr().out
    assert len(told) >= 6
    assert all(line in shown for line in told)
    assert "force_image_size  56  (ASSUMED, absent: default of the model's class)" in shown
    assert main(["inspect", str(tmp_path / "bundle"), "--json"]) == 0
    readings = json.loads(capsys.readouterr().out)["manifest"]["provenance"]["readings"]
    assert {
        "what": "force_image_size",
        "value": "56",
        "source": "absent: default of the model's class",
        "assumed": True,
    } in readings
