"""Write a random checkpoint directory: config.json, tokenizer files, safetensors (one file or shards with an index).

Tensors are generated and written a chunk at a time, on all cores, so an 8 B checkpoint needs no more memory than a
small one. The container is written here rather than by the ``safetensors`` library, whose writers take whole tensors;
tests read it back with the library.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.random_checkpoint.spec import CheckpointSpec, LlmFamily
from vprm_benchmarks.random_checkpoint.tensors import CHUNK_ELEMENTS, RandomTensor, random_tensors
from vprm_benchmarks.random_checkpoint.tokenizers import read_vocab_size, write_tokenizer
from vprm_runtime.room import check_room

_SAFETENSORS_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_NUMPY_DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
_ARCHITECTURES: dict[LlmFamily, str] = {
    "internlm2": "InternLM2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}
_USUAL_VOCABULARY = 1000
_TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def write_random_checkpoint(
    directory: Path, spec: CheckpointSpec, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Create ``directory`` with the checkpoint that ``spec`` describes and return it.

    ``progress`` gets the bytes of weights that are written, and in all. Raises EngineError if the disk has no room,
    FileExistsError if the directory has files already, ValueError if ``spec.vocab_size`` is smaller than the
    tokenizer's vocabulary.
    """
    directory = Path(directory)
    check_room(f"a checkpoint in {directory}", disk_bytes=checkpoint_bytes(spec), folder=directory)
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty: choose a new directory or remove it first")
    if spec.tokenizer_dir is None:
        write_tokenizer(directory, spec.llm.family)
    else:
        for name in _TOKENIZER_FILES:
            if (spec.tokenizer_dir / name).is_file():
                shutil.copyfile(spec.tokenizer_dir / name, directory / name)
    tokens = read_vocab_size(directory)
    vocab_size = tokens if spec.vocab_size is None else spec.vocab_size
    if vocab_size < tokens:
        raise ValueError(
            f"vocab_size {vocab_size} is smaller than the tokenizer's {tokens} tokens: raise it or leave it None"
        )
    plans = random_tensors(spec, vocab_size)
    size = sum(plan.elements for plan in plans) * _NUMPY_DTYPES[spec.dtype].itemsize
    (directory / "config.json").write_text(json.dumps(config_json(spec, vocab_size), indent=2) + "\n")
    _write_weights(directory, spec, plans, _Counter(size, progress))
    return directory


def checkpoint_bytes(spec: CheckpointSpec) -> int:
    """Bytes of all tensors, about: a tokenizer that is yet to be trained decides the vocabulary."""
    elements = sum(plan.elements for plan in random_tensors(spec, spec.vocab_size or _USUAL_VOCABULARY))
    return elements * int(_NUMPY_DTYPES[spec.dtype].itemsize)


class _Counter:
    """Bytes written so far. Threads share it."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._progress, self._lock = 0, total, progress, Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._progress(self._done, self._total)


def config_json(spec: CheckpointSpec, vocab_size: int) -> dict[str, object]:
    """The content of config.json, with the keys of the hub's ``InternVLChatConfig``."""
    vision = spec.vision
    config: dict[str, object] = {
        "architectures": ["InternVLRewardModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": vision.downsample_ratio,
        "dynamic_image_size": True,
        "force_image_size": vision.image_size,
        "llm_config": _llm_config(spec, vocab_size),
        "max_dynamic_patch": spec.max_dynamic_patch,
        "min_dynamic_patch": spec.min_dynamic_patch,
        "ps_version": vision.ps_version,
        "select_layer": vision.select_layer,
        "template": spec.template,
        "torch_dtype": spec.dtype,
        "use_thumbnail": True,
        "vision_config": _vision_config(spec),
    }
    if spec.system_message is not None:
        config["system_message"] = spec.system_message
    return config


def _llm_config(spec: CheckpointSpec, vocab_size: int) -> dict[str, object]:
    llm = spec.llm
    config: dict[str, object] = {
        "architectures": [_ARCHITECTURES[llm.family]],
        "model_type": llm.family,
        "hidden_size": llm.hidden,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "intermediate_size": llm.ffn,
        "hidden_act": "silu",
        "max_position_embeddings": llm.max_position,
        "rms_norm_eps": llm.rms_norm_eps,
        "rope_theta": llm.rope_theta,
        "rope_scaling": None if llm.rope_scaling is None else dict(llm.rope_scaling),
        "tie_word_embeddings": llm.tie_word_embeddings,
        "torch_dtype": spec.dtype,
        "vocab_size": vocab_size,
    }
    if llm.family == "internlm2":
        config["bias"] = False
    return config


def _vision_config(spec: CheckpointSpec) -> dict[str, object]:
    vision = spec.vision
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": vision.hidden,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.mlp,
        "hidden_act": "gelu",
        "image_size": vision.table_image_size,
        "patch_size": vision.patch,
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
        "norm_type": vision.norm_type,
        "qk_normalization": vision.qk_norm,
        "qkv_bias": vision.qkv_bias,
        "torch_dtype": spec.dtype,
    }


def _write_weights(directory: Path, spec: CheckpointSpec, plans: list[RandomTensor], counter: _Counter) -> None:
    item_bytes = _NUMPY_DTYPES[spec.dtype].itemsize
    shards: list[list[RandomTensor]] = [[]]
    shard_bytes = 0
    for plan in plans:
        size = plan.elements * item_bytes
        if spec.max_shard_bytes is not None and shards[-1] and shard_bytes + size > spec.max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(plan)
        shard_bytes += size
    if spec.max_shard_bytes is None:
        _write_safetensors(directory / "model.safetensors", shards[0], spec, counter)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(directory / name, shard, spec, counter)
        weight_map.update({plan.name: name for plan in shard})
    total = sum(plan.elements for plan in plans) * item_bytes
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_safetensors(path: Path, plans: list[RandomTensor], spec: CheckpointSpec, counter: _Counter) -> None:
    """One file: 8 bytes little-endian header length, JSON header padded to 8 bytes, then the tensors back to back."""
    dtype = _NUMPY_DTYPES[spec.dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for plan in plans:
        end = offset + plan.elements * dtype.itemsize
        header[plan.name] = {
            "dtype": _SAFETENSORS_DTYPES[spec.dtype],
            "shape": list(plan.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    start = 8 + len(encoded)
    with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as threads:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(start + offset)
        file.flush()
        written = []
        for plan in plans:
            write = functools.partial(_write_chunk, file.fileno(), plan, plan.levels(dtype), spec.seed, start, counter)
            written += [threads.submit(write, index) for index in range(plan.chunks)]
            start += plan.elements * dtype.itemsize
        for one in written:
            one.result()


def _write_chunk(
    descriptor: int,
    plan: RandomTensor,
    levels: NDArray[Any],
    seed: int,
    tensor_start: int,
    counter: _Counter,
    index: int,
) -> None:
    values = memoryview(plan.chunk(index, seed, levels).tobytes())  # bfloat16 has no buffer of its own
    place = tensor_start + index * CHUNK_ELEMENTS * levels.itemsize
    while values:
        count = os.pwrite(descriptor, values, place)
        values, place = values[count:], place + count
        counter.add(count)
