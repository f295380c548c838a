"""Random checkpoints: the hub's names and shapes, readable by the safetensors library, the same for the same seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from vprm_benchmarks.random_checkpoint import (
    CheckpointSpec,
    LlmFamily,
    random_tensors,
    tiny_spec,
    visualprm_8b_spec,
    write_random_checkpoint,
)
from vprm_benchmarks.random_checkpoint.tensors import CHUNK_ELEMENTS, RandomTensor


def _shapes(spec: CheckpointSpec, vocab_size: int) -> dict[str, tuple[int, ...]]:
    return {plan.name: plan.shape for plan in random_tensors(spec, vocab_size)}


def test_full_preset_has_the_hub_models_tensors() -> None:
    shapes = _shapes(visualprm_8b_spec(), 92553)
    assert len(shapes) == 573
    assert sum(int(np.prod(shape)) for shape in shapes.values()) * 2 == 16_150_730_752
    assert shapes["language_model.model.layers.31.attention.wqkv.weight"] == (6144, 4096)
    assert shapes["language_model.output.weight"] == (92553, 4096)
    assert shapes["vision_model.embeddings.position_embedding"] == (1, 1025, 1024)
    assert shapes["mlp1.1.weight"] == (4096, 4096)


@pytest.mark.parametrize("family", ["internlm2", "qwen2", "llama"])
def test_files_hold_what_the_index_says(tmp_path: Path, family: LlmFamily) -> None:
    spec = replace(tiny_spec(family), max_shard_bytes=400_000, dtype="bfloat16")
    directory = write_random_checkpoint(tmp_path / "checkpoint", spec)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    found: dict[str, tuple[int, ...]] = {}
    for name in set(index["weight_map"].values()):
        with safe_open(directory / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                assert index["weight_map"][key] == name
                assert file.get_slice(key).get_dtype() == "BF16"
                found[key] = tuple(file.get_slice(key).get_shape())
    vocab_size = json.loads((directory / "config.json").read_text())["llm_config"]["vocab_size"]
    assert found == _shapes(spec, vocab_size)


def test_seed_decides_the_values_and_sharding_does_not(tmp_path: Path) -> None:
    single = write_random_checkpoint(tmp_path / "single", tiny_spec())
    sharded = write_random_checkpoint(tmp_path / "sharded", replace(tiny_spec(), max_shard_bytes=100_000))
    other = write_random_checkpoint(tmp_path / "other", replace(tiny_spec(), seed=1))
    name = "language_model.model.layers.1.feed_forward.w2.weight"

    def read(directory: Path) -> np.ndarray:
        index = directory / "model.safetensors.index.json"
        file = json.loads(index.read_text())["weight_map"][name] if index.is_file() else "model.safetensors"
        with safe_open(directory / file, framework="np") as tensors:
            return np.asarray(tensors.get_tensor(name))

    assert np.array_equal(read(single), read(sharded))
    assert not np.array_equal(read(single), read(other))


def test_values_are_normal_and_chunks_differ() -> None:
    plan = RandomTensor("a.weight", (3, CHUNK_ELEMENTS // 2), std=0.5, mean=1.0)
    levels = plan.levels(np.dtype(np.float32))
    first, last = (plan.chunk(index, 3, levels) for index in range(plan.chunks))
    assert (first.size, last.size) == (CHUNK_ELEMENTS, CHUNK_ELEMENTS // 2)
    assert not np.array_equal(first[: last.size], last)
    assert np.array_equal(plan.chunk(1, 3, levels), last)
    assert not np.array_equal(plan.chunk(1, 4, levels), last)
    standard = (first.astype(np.float64) - 1) / 0.5
    # A million draws: the mean is known to 0.001, the share within one and two standard deviations to 0.0005.
    assert abs(standard.mean()) < 0.005
    assert abs(standard.std() - 1) < 0.005
    assert abs((np.abs(standard) < 1).mean() - 0.6827) < 0.0025
    assert abs((np.abs(standard) < 2).mean() - 0.9545) < 0.0025


def test_files_hold_the_chunks_at_their_places(tmp_path: Path) -> None:
    spec = replace(tiny_spec(), llm=replace(tiny_spec().llm, hidden=256, ffn=2 * CHUNK_ELEMENTS // 256 + 64, layers=1))
    directory = write_random_checkpoint(tmp_path / "checkpoint", spec)
    plans = {plan.name: plan for plan in random_tensors(spec, 700)}
    plan = plans["language_model.model.layers.0.feed_forward.w1.weight"]
    assert plan.chunks == 3
    with safe_open(directory / "model.safetensors", framework="np") as tensors:
        found = np.asarray(tensors.get_tensor(plan.name))
    levels = plan.levels(np.dtype(np.float32))
    expected = np.concatenate([plan.chunk(index, spec.seed, levels) for index in range(3)])
    assert np.array_equal(found.reshape(-1), expected)


def test_refuses_a_used_directory_and_a_small_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_random_checkpoint(tmp_path / "used", tiny_spec())
    with pytest.raises(ValueError, match="smaller than the tokenizer's"):
        write_random_checkpoint(tmp_path / "new", replace(tiny_spec(), vocab_size=300))
