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

from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint
from vprm_benchmarks.reference import ReferenceScorer
from vprm_export import ExportOptions, export_bundle
from vprm_export.checkpoint import INDEX_NAME, SINGLE_NAME, Checkpoint
from vprm_export.external_data import ExternalData
from vprm_runtime import BundleError, CheckpointError, StepScorer, UnsupportedError
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.cli.main import main


@pytest.fixture
def checkpoint(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage: one file, float32."""
    return Path(shutil.copytree(random_checkpoint("internlm2"), tmp_path / "checkpoint"))


def refused(checkpoint: Path, error: type[Exception], *words: str, **options: Any) -> None:
    """Exporting raises `error` with all of `words`, and leaves nothing behind."""
    target = checkpoint.parent / "out" / "bundle"
    with pytest.raises(error) as caught:
        export_bundle(checkpoint, target, ExportOptions(**options))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


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


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A checkpoint in several shards with an index."""
    return write_random_checkpoint(tmp_path / "sharded", tiny_spec().__class__(max_shard_bytes=200_000))


def index_of(checkpoint: Path) -> dict[str, str]:
    return dict(json.loads((checkpoint / INDEX_NAME).read_text())["weight_map"])


def write_index(checkpoint: Path, weight_map: dict[str, str]) -> None:
    (checkpoint / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))


def score_of(checkpoint: Path, name: str) -> float | None:
    export_bundle(checkpoint, checkpoint.parent / name)
    return StepScorer.open(checkpoint.parent / name).score([], "Q?", ["One.\n\nTwo."]).candidates[0].score


@pytest.mark.parametrize("overlay", ["overlay.safetensors", "a-overlay.safetensors", "model-00009.safetensors"])
def test_an_overlay_file_wins_over_the_stale_copy(shards: Path, overlay: str) -> None:
    """Whatever its name sorts to: the index says which file has the tensor."""
    weight_map, head = index_of(shards), "language_model.output.weight"
    tensors = load_file(shards / weight_map[head])
    before = score_of(shards, "before")
    save_file({head: tensors[head][:, ::-1].copy()}, shards / overlay)
    write_index(shards, {**weight_map, head: overlay})
    expected = score_of(shards, "overlaid")
    assert expected != before
    reference = ReferenceScorer.load(shards).score([], "Q?", [["One.", "Two."]])[0]
    assert expected == pytest.approx(reference.mean, abs=1e-5)
    tensors[head] = tensors[head][:, ::-1].copy()
    save_file(tensors, shards / weight_map[head])
    write_index(shards, weight_map)
    assert score_of(shards, "in place") == expected


def test_an_overlay_over_a_single_file(checkpoint: Path) -> None:
    """An index that names model.safetensors and another file is about both."""
    head = "language_model.output.weight"
    tensors = load_file(checkpoint / SINGLE_NAME)
    save_file({head: tensors[head][:, ::-1].copy()}, checkpoint / "overlay.safetensors")
    write_index(checkpoint, {**dict.fromkeys(tensors, SINGLE_NAME), head: "overlay.safetensors"})
    overlaid = score_of(checkpoint, "overlaid")
    reference = ReferenceScorer.load(checkpoint).score([], "Q?", [["One.", "Two."]])[0]
    assert overlaid == pytest.approx(reference.mean, abs=1e-5)
    (checkpoint / INDEX_NAME).unlink()
    (checkpoint / "overlay.safetensors").unlink()
    assert score_of(checkpoint, "plain") != overlaid


def test_a_tensor_in_two_files_that_the_index_does_not_settle(shards: Path) -> None:
    weight_map = index_of(shards)
    name = "mlp1.0.bias"
    first = weight_map.pop(name)
    write_index(shards, weight_map)
    manifest = export_bundle(shards, shards.parent / "one")
    assert [r.value for r in manifest.provenance.readings if r.assumed] == [first]
    second = next(file for file in sorted(set(weight_map.values())) if file != first)
    save_file({**load_file(shards / second), name: load_file(shards / first)[name] + 1}, shards / second)
    shutil.rmtree(shards.parent / "one")
    refused(shards, CheckpointError, name, first, second)


def test_a_single_file_is_taken_before_an_index(checkpoint: Path, shards: Path, capsys: Any) -> None:
    """transformers' order; the shards that are left are named."""
    expected = score_of(checkpoint, "single")
    for file in (INDEX_NAME, *set(index_of(shards).values())):
        shutil.copy(shards / file, checkpoint)
    first = min(set(index_of(shards).values()))
    assert main(["export", str(checkpoint), str(checkpoint.parent / "both")]) == 0
    message = capsys.readouterr().err
    assert "ASSUMED" in message
    assert SINGLE_NAME in message
    assert first in message
    assert score_of(checkpoint, "again") == expected


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("adapter_config.json", b"{}", ("adapter", "merge_and_unload")),
        ("adapter_model.safetensors", b"", ("adapter", "merge_and_unload")),
        (SINGLE_NAME, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ("git-lfs", "lfs pull")),
        ("config.json", b"version https://git-lfs.github.com/spec/v1\n", ("config.json", "git-lfs")),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n", ("tokenizer.model", "git-lfs")),
    ],
)
def test_folders_that_hold_something_else(checkpoint: Path, file: str, content: bytes, words: tuple[str, ...]) -> None:
    (checkpoint / file).write_bytes(content)
    refused(checkpoint, CheckpointError, *words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model-00001-of-00002.safetensors", ("index", "hf download")),
        ("consolidated.safetensors", ("index", "hf download")),
        ("pytorch_model.bin", ("pickled", "safetensors.torch", "weights_only=True")),
        ("consolidated.00.pth", ("pickled", "safetensors.torch")),
        (None, ("neither", "hf download")),
    ],
)
def test_folders_without_readable_weights(checkpoint: Path, name: str | None, words: tuple[str, ...]) -> None:
    if name is None:
        (checkpoint / SINGLE_NAME).unlink()
    else:
        (checkpoint / SINGLE_NAME).rename(checkpoint / name)
    refused(checkpoint, CheckpointError, *words)


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


def test_bundles_that_are_damaged(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    Bundle.open(bundle).verify()
    data = bundle / "llm.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError, match=r"llm\.onnx\.data"):
        Bundle.open(bundle).verify()
    data.write_bytes(content[:-1])
    with pytest.raises(BundleError, match="incomplete or damaged"):
        StepScorer.open(bundle)
    data.unlink()
    with pytest.raises(BundleError, match="missing"):
        StepScorer.open(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(schema_version=99), "schema_version 99"),
        (lambda manifest: manifest.pop("tiling"), "tiling"),
        (lambda manifest: manifest.update(extra=1), "extra"),
        (lambda manifest: manifest["model"].update(layers="3"), "layers is '3'"),
        (lambda manifest: manifest["tiling"].update(use_thumbnail=1), "use_thumbnail"),
        (lambda manifest: manifest["files"].update({"../secret": {"size_bytes": 1, "sha256": ""}}), "outside"),
    ],
)
def test_manifests_that_are_wrong(
    demo_bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_directories_that_are_no_bundle(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="make one with  vprm "):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="is a checkpoint, not a bundle"):
        Bundle.open(random_checkpoint("internlm2"))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        Bundle.open(tmp_path)


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
