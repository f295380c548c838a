"""A checkpoint with outlier channels that computes the same function: what quantisation must survive.

| planted in                         | by                               | undone by                              |
|------------------------------------|----------------------------------|----------------------------------------|
| inputs of q, k, v and of gate, up  | channels of the norm's weight    | columns of the Linears after the norm |
| inputs of the attention's output   | rows of the value projection     | columns of the output projection       |
| inputs of the MLP's output (down)  | rows of the up projection        | columns of the down projection         |

Factors are powers of two, so in float32 nothing is lost and step scores stay equal. A massive first token cannot be
planted so: norms make its size part of the function.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_export.architecture import Architecture, LlmArchitecture
from vprm_export.checkpoint import Checkpoint
from vprm_export.no_weights import INDEX_NAME, SINGLE_NAME
from vprm_runtime.errors import CheckpointError, UnsupportedError

FACTOR = 64.0
_CHANNELS = 3  # of each input
_ROOT = "language_model.model.layers"

Change = Callable[[NDArray[np.float32]], None]


def plant_outliers(checkpoint_path: Path, target: Path, factor: float = FACTOR, seed: int = 0) -> Path:
    """Write the checkpoint (InternLM2 names) to `target` in float32, with some channels of each Linear's input grown.

    `factor` must be a power of two. Raises CheckpointError if `target` exists, UnsupportedError on another family.
    """
    from safetensors.numpy import save_file

    checkpoint = Checkpoint.open(checkpoint_path)
    llm = Architecture.from_config(checkpoint.config, checkpoint_path).llm
    if llm.family != "internlm2":
        raise UnsupportedError(f"outliers are planted in InternLM2 checkpoints only, this one is {llm.family}")
    if target.exists():
        raise CheckpointError(f"{target} exists already: remove it or choose another name")
    rng = np.random.default_rng(seed)
    changes: dict[str, list[Change]] = {}
    for layer in range(llm.layers):
        for name, change in _layer_changes(llm, f"{_ROOT}.{layer}", factor, rng):
            changes.setdefault(name, []).append(change)
    target.mkdir(parents=True)
    for file in checkpoint_path.iterdir():
        if file.suffix != ".safetensors" and file.name != INDEX_NAME:
            shutil.copyfile(file, target / file.name)
    names = sorted({entry.file.name for entry in checkpoint.tensors.values()})
    for shard in names:
        save_file(_changed(checkpoint, shard, changes), target / shard, {"format": "pt"})
    if names != [SINGLE_NAME]:
        weight_map = {name: entry.file.name for name, entry in checkpoint.tensors.items()}
        index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
        (target / INDEX_NAME).write_text(json.dumps(index, indent=2), "utf-8")
    return target


def _changed(checkpoint: Checkpoint, shard: str, changes: Mapping[str, list[Change]]) -> dict[str, NDArray[Any]]:
    tensors = {}
    for name, entry in checkpoint.tensors.items():
        if entry.file.name == shard:
            values = checkpoint.read(name).astype(np.float32)
            for change in changes.get(name, []):
                change(values)
            tensors[name] = values
    return tensors


def _layer_changes(
    llm: LlmArchitecture, layer: str, factor: float, rng: np.random.Generator
) -> list[tuple[str, Change]]:
    """(tensor, what to do to it), in pairs that cancel."""

    def channels(width: int) -> NDArray[np.int64]:
        return rng.choice(width, _CHANNELS, replace=False)

    for_qkv, for_mlp = channels(llm.hidden_size), channels(llm.hidden_size)
    for_down, values = channels(llm.mlp_size), channels(llm.kv_heads * llm.head_dim)
    per_group = llm.heads // llm.kv_heads
    # Value channel (g, d) is in wqkv's row ((per_group + 2) * g + per_group + 1) * head_dim + d, and reaches the
    # inputs (per_group * g + r, d) of wo for each of the group's query heads r.
    group, channel = np.divmod(values, llm.head_dim)
    value_rows = ((per_group + 2) * group + per_group + 1) * llm.head_dim + channel
    heads = per_group * group[:, None] + np.arange(per_group)[None]
    output_columns = (heads * llm.head_dim + channel[:, None]).reshape(-1)
    return [
        (f"{layer}.attention_norm.weight", _rows(for_qkv, factor)),
        (f"{layer}.attention.wqkv.weight", _columns(for_qkv, 1 / factor)),
        (f"{layer}.ffn_norm.weight", _rows(for_mlp, factor)),
        (f"{layer}.feed_forward.w1.weight", _columns(for_mlp, 1 / factor)),
        (f"{layer}.feed_forward.w3.weight", _columns(for_mlp, 1 / factor)),
        (f"{layer}.feed_forward.w3.weight", _rows(for_down, factor)),
        (f"{layer}.feed_forward.w2.weight", _columns(for_down, 1 / factor)),
        (f"{layer}.attention.wqkv.weight", _rows(value_rows, factor)),
        (f"{layer}.attention.wo.weight", _columns(output_columns, 1 / factor)),
    ]


def _rows(indices: NDArray[np.int64], factor: float) -> Change:
    def change(values: NDArray[np.float32]) -> None:
        values[indices] *= np.float32(factor)

    return change


def _columns(indices: NDArray[np.int64], factor: float) -> Change:
    def change(values: NDArray[np.float32]) -> None:
        values[:, indices] *= np.float32(factor)

    return change
