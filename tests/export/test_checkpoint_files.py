"""Which files of a checkpoint are read: shards, overlays, single files (test_no_weights.py: others)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from tests.support.checkpoints import refused

from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint
from vprm_benchmarks.reference import ReferenceScorer
from vprm_export import export_bundle
from vprm_export.no_weights import INDEX_NAME, SINGLE_NAME
from vprm_runtime import CheckpointError, StepScorer
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.cli.main import main


@pytest.fixture
def checkpoint(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage: one file, float32."""
    return Path(shutil.copytree(random_checkpoint("internlm2"), tmp_path / "checkpoint"))


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


BESIDE_A_SINGLE_FILE: dict[str, tuple[Callable[[Path, Path], Any], str | None]] = {
    "an old index without its shards": (lambda own, other: shutil.copy(other / INDEX_NAME, own), INDEX_NAME),
    "shards without an index": (
        lambda own, other: [shutil.copy(file, own) for file in other.glob("model-*.safetensors")], "model-00001-of-"
    ),
    "a second file": (
        lambda own, other: shutil.copy(min(other.glob("model-*.safetensors")), own / "ema.safetensors"),
        "ema.safetensors",
    ),
    "an index of itself": (
        lambda own, other: write_index(own, dict.fromkeys(load_file(own / SINGLE_NAME), SINGLE_NAME)), None
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BESIDE_A_SINGLE_FILE)
def test_what_else_is_beside_a_single_file(checkpoint: Path, shards: Path, kind: str) -> None:
    """Never taken, and named where it holds weights."""
    expected = score_of(checkpoint, "alone")
    add, named = BESIDE_A_SINGLE_FILE[kind]
    add(checkpoint, shards)
    assert score_of(checkpoint, "beside") == expected
    readings = Bundle.open(checkpoint.parent / "beside").manifest.provenance.readings
    (weights,) = [reading for reading in readings if reading.what == "weights"]
    assert weights.assumed is (named is not None)
    assert named is None or named in weights.value


@pytest.mark.parametrize("name", ["new_head.safetensors", "pytorch_model.bin", "model-00009-of-00009.safetensors"])
@pytest.mark.parametrize("layout", ["single", "index"])
def test_weights_that_are_left_are_named(checkpoint: Path, shards: Path, name: str, layout: str) -> None:
    """A file that somebody trained into and that nothing reads: transformers takes none of them either."""
    directory = checkpoint if layout == "single" else shards
    expected = score_of(directory, "alone")
    readings = Bundle.open(directory.parent / "alone").manifest.provenance.readings
    assert not [reading for reading in readings if reading.what == "weights" and reading.assumed]
    if name.endswith(".bin"):
        (directory / name).write_bytes(b"PK")
    else:
        first = next(iter(load_file(min(directory.glob("*.safetensors"))).items()))
        save_file(dict([first]), directory / name)
    assert score_of(directory, "beside") == expected
    readings = Bundle.open(directory.parent / "beside").manifest.provenance.readings
    (weights,) = [reading for reading in readings if reading.what == "weights"]
    assert weights.assumed
    assert f"NOT {name}" in weights.value


@pytest.mark.parametrize("prefix", ["module.", "base_model.", "model.", "_orig_mod."])
def test_names_of_a_wrapper(checkpoint: Path, prefix: str) -> None:
    """No advice to tie a head that is there under another name."""
    tensors = load_file(checkpoint / SINGLE_NAME)
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, checkpoint / SINGLE_NAME)
    refused(checkpoint, CheckpointError, f"its names are like '{prefix}", "save it again with its own save_pretrained")
