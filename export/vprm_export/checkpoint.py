"""Reading a checkpoint directory: config.json and safetensors, one tensor in memory at a time.

The safetensors format is read here rather than through its library because NumPy has no bfloat16, the library keeps
whole shards mapped (which counts as resident memory), and a truncated shard should be named before anything is built.
Format: https://huggingface.co/docs/safetensors (8-byte header length, JSON header, tensor data).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vprm_runtime.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_BLOCK_BYTES = 1 << 24
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies."""

    file: Path
    offset_bytes: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory: its configuration and an index of its tensors."""

    path: Path
    config: dict[str, Any]
    config_sha256: str
    tensors: dict[str, TensorEntry]

    @staticmethod
    def open(path: str | Path) -> "Checkpoint":
        """Read config.json and every shard's header. Raises CheckpointError naming the file that is wrong."""
        directory = Path(path)
        if not directory.is_dir():
            raise CheckpointError(f"no checkpoint directory at {directory}: give the folder that holds config.json")
        config_path = directory / "config.json"
        config = read_json(config_path)
        tensors: dict[str, TensorEntry] = {}
        for file, expected in _shards(directory).items():
            found = read_safetensors_header(file)
            missing = sorted(expected - found.keys()) if expected is not None else []
            if missing:
                raise CheckpointError(
                    f"{file} has no tensor {missing[0]!r}, which {INDEX_NAME} puts there: copy it again"
                )
            tensors |= found
        digest = hashlib.sha256(config_path.read_bytes()).hexdigest()
        return Checkpoint(directory, config, digest, tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises CheckpointError where the checkpoint has none of that name."""
        return self._entry(name).shape

    def read(self, name: str) -> NDArray[Any]:
        """A tensor, memory-mapped while it is referenced: bfloat16 (ml_dtypes), float16 or float32."""
        entry = self._entry(name)
        if 0 in entry.shape:
            return np.empty(entry.shape, entry.dtype)
        return np.memmap(entry.file, entry.dtype, "r", entry.offset_bytes, entry.shape)

    def read_blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """As `read`, some rows (axis 0) at a time: only a block's pages are resident while it is referenced."""
        entry = self._entry(name)
        row_bytes = entry.dtype.itemsize * int(np.prod(entry.shape[1:], dtype=np.int64))
        if row_bytes == 0 or not entry.shape or entry.shape[0] == 0:
            yield np.empty(entry.shape, entry.dtype)
            return
        step = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, entry.shape[0], step):
            rows = min(step, entry.shape[0] - start)
            block = np.memmap(
                entry.file, entry.dtype, "r", entry.offset_bytes + start * row_bytes, (rows, *entry.shape[1:])
            )
            yield block

    def _entry(self, name: str) -> TensorEntry:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(
                f"{self.path} has no tensor {name!r}: the download is incomplete or config.json is another model's"
            ) from None


def _shards(directory: Path) -> Mapping[Path, set[str] | None]:
    """Shard files and the tensors that the index puts in each (None where there is no index)."""
    if (directory / INDEX_NAME).is_file():
        weight_map = read_json(directory / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{directory / INDEX_NAME} has no weight_map: copy it again")
        shards: dict[Path, set[str]] = {}
        for tensor, file in weight_map.items():
            shards.setdefault(directory / str(file), set()).add(str(tensor))
        return shards
    if (directory / SINGLE_NAME).is_file():
        return {directory / SINGLE_NAME: None}
    raise CheckpointError(
        f"{directory} has neither {INDEX_NAME} nor {SINGLE_NAME}: only safetensors checkpoints are read; "
        "convert .bin files with the safetensors library first"
    )


def read_safetensors_header(file: Path) -> dict[str, TensorEntry]:
    """Index of one safetensors file; checks that all of its data is there."""
    if not file.is_file():
        raise CheckpointError(f"shard {file} is missing: the download is incomplete")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"shard {file} is truncated or no safetensors file ({size} bytes): copy it again")
        try:
            header = json.loads(stream.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"shard {file} has a damaged header ({error}): copy it again") from error
    header.pop("__metadata__", None)
    entries = {}
    for name, info in header.items():
        if info["dtype"] not in _DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {file} is {info['dtype']}; supported are {', '.join(_DTYPES)}: "
                "convert the checkpoint"
            )
        dtype, shape = _DTYPES[info["dtype"]], tuple(info["shape"])
        start, end = info["data_offsets"]
        if end - start != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise CheckpointError(f"tensor {name!r} in {file} has {end - start} bytes, its shape wants more or fewer")
        if 8 + length + end > size:
            raise CheckpointError(
                f"shard {file} is truncated: tensor {name!r} ends at byte {8 + length + end}, the file at {size}; "
                "copy it again"
            )
        entries[name] = TensorEntry(file, 8 + length + start, dtype, shape)
    return entries


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises CheckpointError where the file is missing or holds something else."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: give the checkpoint's own folder, completely downloaded, tokenizer files too"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}): copy it again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} should hold a JSON object: copy it again")
    return document
