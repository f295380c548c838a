"""Folders whose weights cannot be read as they are: the true reason, and a command that does mend it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vprm_benchmarks.random_checkpoint import CheckpointSpec, write_random_checkpoint
from vprm_export import export_bundle
from vprm_export.no_weights import INDEX_NAME, SINGLE_NAME
from vprm_runtime import CheckpointError, StepScorer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def checkpoint(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage, in a folder whose name a shell has to quote."""
    return Path(shutil.copytree(random_checkpoint("internlm2"), tmp_path / "my checkpoint"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A checkpoint in several shards with an index."""
    return write_random_checkpoint(tmp_path / "my shards", CheckpointSpec(max_shard_bytes=200_000))


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        export_bundle(directory, directory.parent / "refused")
    return str(caught.value)


def follow(message: str) -> None:
    """Run the command that a message ends with."""
    (command,) = re.findall(r"  ((?:cd|mv) .*)$", message)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, env=environment, timeout=120)


def score_of(directory: Path, name: str) -> float | None:
    export_bundle(directory, directory.parent / name)
    return StepScorer.open(directory.parent / name).score([], "Q?", ["One.\n\nTwo."])[0].score


def test_shards_without_an_index(shards: Path) -> None:
    expected = score_of(shards, "before")
    (shards / INDEX_NAME).unlink()
    follow(refusal(shards))
    assert score_of(shards, "after") == expected


def test_missing_shards_are_named(shards: Path) -> None:
    (shards / INDEX_NAME).unlink()
    first, second, *_ = sorted(shards.glob("*.safetensors"))
    second.unlink()
    message = refusal(shards)
    assert f"lacks 1 of {len(list(shards.glob('*.safetensors'))) + 1} shards ({second.name} ...)" in message
    assert "hf download" in message
    first.unlink()
    assert f"lacks 2 of {len(list(shards.glob('*.safetensors'))) + 2} shards ({first.name} ...)" in refusal(shards)


@pytest.mark.parametrize(
    "name", ["pytorch_model.safetensors", "diffusion_pytorch_model.safetensors", "weights.safetensors"]
)
def test_a_single_file_of_another_name(checkpoint: Path, name: str) -> None:
    expected = score_of(checkpoint, "before")
    (checkpoint / SINGLE_NAME).rename(checkpoint / name)
    follow(refusal(checkpoint))
    assert score_of(checkpoint, "after") == expected


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt"])
def test_pickled_weights(checkpoint: Path, name: str) -> None:
    expected = score_of(checkpoint, "before")
    torch.save(load_file(checkpoint / SINGLE_NAME), checkpoint / name)
    (checkpoint / SINGLE_NAME).unlink()
    for other in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        (checkpoint / other).write_bytes(b"")
    message = refusal(checkpoint)
    assert f"only pickled weights ({name} ...), which can run code" in message
    assert "weights_only=True" in message
    follow(message)
    assert score_of(checkpoint, "after") == expected


def test_pickled_shards(shards: Path) -> None:
    """Two steps, each named by the message of the one before."""
    expected = score_of(shards, "before")
    for file in sorted(shards.glob("*.safetensors")):
        torch.save(load_file(file), shards / f"pytorch_{file.stem}.bin")
        file.unlink()
    (shards / INDEX_NAME).unlink()
    follow(refusal(shards))
    follow(refusal(shards))
    assert score_of(shards, "after") == expected


@pytest.mark.parametrize("name", ["model-Q4_K_M.gguf", "a.gguf", "model-00001-of-00002.gguf"])
def test_llama_cpps_files(checkpoint: Path, name: str) -> None:
    (checkpoint / SINGLE_NAME).rename(checkpoint / name)
    message = refusal(checkpoint)
    for words in (f"has {name}, which is llama.cpp's format", "safetensors", "hf download", "--precision"):
        assert words in message


def test_a_folder_without_weights(checkpoint: Path) -> None:
    (checkpoint / SINGLE_NAME).unlink()
    assert f"neither {INDEX_NAME} nor {SINGLE_NAME}: download the weights too, with  hf download" in refusal(checkpoint)


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors"],
)
@pytest.mark.parametrize("alone", [True, False])
def test_adapters(checkpoint: Path, name: str, alone: bool) -> None:
    """Beside the weights of a base model, too: transformers would apply it."""
    if alone:
        for file in checkpoint.iterdir():
            file.unlink()
    (checkpoint / name).write_bytes(b"{}")
    message = refusal(checkpoint)
    assert f"holds an adapter ({name}): merge it into its base model" in message
    assert "merge_and_unload" in message


@pytest.mark.parametrize(
    "name", [SINGLE_NAME, "config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"]
)
def test_git_lfs_pointers(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes(POINTER)
    message = refusal(checkpoint)
    assert re.search(
        rf"{re.escape(name)} is a git-lfs pointer, not the file: fetch it with  git -C .* lfs pull$", message
    )
    assert "is not JSON" not in message


def test_a_pointer_for_an_index(shards: Path) -> None:
    (shards / INDEX_NAME).write_bytes(POINTER)
    message = refusal(shards)
    assert (message.count("git-lfs"), "is not JSON" in message) == (1, False)


def test_names_of_the_index_are_those_that_transformers_writes(shards: Path) -> None:
    weight_map = json.loads((shards / INDEX_NAME).read_text())["weight_map"]
    assert all(re.fullmatch(r"model-\d+-of-\d+\.safetensors", name) for name in weight_map.values())
