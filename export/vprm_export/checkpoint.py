"""Reading a checkpoint directory: config.json and safetensors, one tensor in memory at a time.

The safetensors format is read here rather than through its library because NumPy has no bfloat16, the library keeps
whole shards mapped (which counts as resident memory), and a truncated shard should be named before anything is built.
Format: https://huggingface.co/docs/safetensors (8-byte header length, JSON header, tensor data).
"""

import codecs
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vprm_export.no_weights import (
    INDEX_NAME,
    SINGLE_NAME,
    check_no_adapter,
    check_no_adapter_tensors,
    pickled_weights,
    why_no_weights,
)
from vprm_export.readings import Readings
from vprm_runtime.bundle.limits import is_plain_name
from vprm_runtime.bundle.names import hub_id, model_name, path_text
from vprm_runtime.errors import CheckpointError, quoted
from vprm_runtime.strict_json import loads

_BLOCK_BYTES = 1 << 24
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LFS_START = b"version https://git-lfs"
_MAX_DIMENSIONS = 8
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
    parts: tuple["TensorEntry", ...] = ()  # of a tensor that is stored in pieces, one on top of the other

    @staticmethod
    def stacked(parts: Sequence["TensorEntry"]) -> "TensorEntry":
        """Tensors on top of each other along axis 0. Raises CheckpointError if they do not fit."""
        first = parts[0]
        if any(part.dtype != first.dtype or part.shape[1:] != first.shape[1:] for part in parts):
            raise CheckpointError(f"{first.file}: parts of one projection differ in type or shape: copy it again")
        rows = sum(part.shape[0] for part in parts)
        return TensorEntry(first.file, first.offset_bytes, first.dtype, (rows, *first.shape[1:]), tuple(parts))

    def read(self) -> NDArray[Any]:
        """The tensor, memory-mapped while it is referenced unless it is stored in pieces."""
        if self.parts:
            return np.concatenate([part.read() for part in self.parts])
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.file, self.dtype, "r", self.offset_bytes, self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory: its configuration and an index of its tensors."""

    path: Path
    config: dict[str, Any]
    config_sha256: str
    tensors: dict[str, TensorEntry]

    @staticmethod
    def open(path: str | Path, readings: Readings | None = None) -> "Checkpoint":
        """Read config.json and every shard's header; `readings` gets which files were taken.

        Raises CheckpointError naming the file that is wrong.
        """
        directory = Path(path)
        if not directory.is_dir():
            raise CheckpointError(f"no checkpoint directory at {directory}: give the folder that holds config.json")
        check_no_adapter(directory)
        config_path = directory / "config.json"
        config = read_json(config_path)
        tensors = _tensors(directory, Readings() if readings is None else readings)
        check_no_adapter_tensors(tensors, directory)
        digest = hashlib.sha256(config_path.read_bytes()).hexdigest()
        return Checkpoint(directory, config, digest, tensors)

    @property
    def name(self) -> str:
        """What the model is called: the folder's name, or the repository's for a folder of the hub's cache."""
        path = self.path.resolve()
        if _COMMIT.fullmatch(path.name) and hub_id(self.path) is None:  # a snapshot that was copied elsewhere
            return str(self.config.get("_name_or_path") or path_text(path.parent.name))
        return model_name(self.path)

    @property
    def revision(self) -> str | None:
        """The repository's commit, for a folder of the hub's cache."""
        for path in (self.path.absolute(), self.path.resolve()):
            if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
                return path.name
        return None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises CheckpointError if the checkpoint has none of that name."""
        return self._entry(name).shape

    def read(self, name: str) -> NDArray[Any]:
        """A tensor, memory-mapped while it is referenced: bfloat16 (ml_dtypes), float16 or float32."""
        return self._entry(name).read()

    def read_blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """As `read`, some rows (axis 0) at a time: only a block's pages are resident while it is referenced."""
        entry = self._entry(name)
        for part in entry.parts or (entry,):
            yield from self._part_blocks(part)

    def _part_blocks(self, entry: TensorEntry) -> Iterator[NDArray[Any]]:
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


def _tensors(directory: Path, readings: Readings) -> dict[str, TensorEntry]:
    """Every tensor and the file that it is taken from, as transformers chooses: `model.safetensors`, else the index.

    An index says of each tensor which file has it, so an overlay file wins over a base file that still has the old
    copy; also if the base is `model.safetensors` and the index names it beside others. Raises CheckpointError if a
    tensor is in several files and the index does not say in which.
    """
    single, index = directory / SINGLE_NAME, directory / INDEX_NAME
    others = sorted(file.name for file in directory.glob("*.safetensors") if file != single)
    names_single = index.is_file() and SINGLE_NAME in _weight_map(index).values()
    if single.is_file() and not (names_single and len(set(_weight_map(index).values())) > 1):
        if index.is_file() and (named := sorted(set(_weight_map(index).values()) - {SINGLE_NAME})):
            left = f"{SINGLE_NAME}; NOT {INDEX_NAME} and its {len(named)} shards ({named[0]} ...)"
            readings.assume("weights", left, "both are there: transformers reads the single file first")
        elif beside := [*others, *pickled_weights(directory)]:
            readings.assume("weights", f"{SINGLE_NAME}; NOT {', '.join(beside)}", "several files: transformers' order")
        else:
            readings.read("weights", SINGLE_NAME, model_name(directory))
        return read_safetensors_header(single)
    if not index.is_file():
        raise CheckpointError(why_no_weights(directory, others))
    weight_map = _weight_map(index)
    files = sorted(set(weight_map.values()))
    if unnamed := [name for name in [*others, *pickled_weights(directory)] if name not in files]:
        why = f"{INDEX_NAME} does not name the others: transformers' order"
        readings.assume("weights", f"{len(files)} files; NOT {', '.join(unnamed)}", why)
    elif names_single and len(files) > 1:
        why = f"{INDEX_NAME} names {SINGLE_NAME} beside others; transformers would read it alone"
        readings.assume("weights", f"{len(files)} files, as the index says", why)
    else:
        readings.read("weights", f"{len(files)} files", INDEX_NAME)
    return _indexed_tensors(directory, weight_map, files, readings)


def _indexed_tensors(
    directory: Path, weight_map: Mapping[str, str], files: Sequence[str], readings: Readings
) -> dict[str, TensorEntry]:
    headers = {name: read_safetensors_header(directory / name) for name in files}
    tensors = {}
    for tensor, name in weight_map.items():
        if tensor not in headers[name]:
            raise CheckpointError(
                f"{directory / name} has no tensor {tensor!r}, which {INDEX_NAME} puts there: copy it again"
            )
        tensors[tensor] = headers[name][tensor]
        if copies := [other for other in files if other != name and tensor in headers[other]]:
            readings.read(f"tensor {tensor}", f"{name}, not {', '.join(copies)}", INDEX_NAME)
    for tensor in sorted(set().union(*headers.values()) - weight_map.keys()):
        places = [name for name in files if tensor in headers[name]]
        if len(places) > 1:
            raise CheckpointError(
                f"tensor {tensor!r} is in {' and '.join(places)}, and {INDEX_NAME} does not say in which: name it there"
            )
        readings.assume(f"tensor {tensor}", places[0], f"not in {INDEX_NAME}, but in one of its files")
        tensors[tensor] = headers[places[0]][tensor]
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map: copy it again")
    odd = [file for file in weight_map.values() if not isinstance(file, str) or not is_plain_name(file)]
    if odd:
        raise CheckpointError(f"{index} names {quoted(repr(odd[0]))}, which is no file in this folder: copy it again")
    return {tensor: str(file) for tensor, file in weight_map.items()}


def check_no_pointer(file: Path) -> None:
    """Raise CheckpointError if a file is a git-lfs pointer, not yet the file itself."""
    with file.open("rb") as stream:
        pointer = stream.read(len(_LFS_START)) == _LFS_START
    if pointer:
        raise CheckpointError(
            f"{file} is a git-lfs pointer, not the file: fetch it with  git -C {file.parent} lfs pull"
        )


def read_safetensors_header(file: Path) -> dict[str, TensorEntry]:
    """Index of one safetensors file; checks that all of its data is there."""
    if not file.is_file():
        raise CheckpointError(f"shard {file} is missing: the download is incomplete")
    check_no_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"shard {file} is truncated or no safetensors file ({size} bytes): copy it again")
        try:
            header = loads(stream.read(length))
        except ValueError as error:
            raise CheckpointError(f"shard {file} has a damaged header ({quoted(error)}): copy it again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"shard {file} has a damaged header (it is no JSON object): copy it again")
    header.pop("__metadata__", None)
    places = {name: _place(file, name, info, size - 8 - length) for name, info in header.items()}
    _check_layout(file, places, size - 8 - length)
    return {
        name: TensorEntry(file, 8 + length + start, dtype, shape) for name, (start, _, dtype, shape) in places.items()
    }


_Place = tuple[int, int, np.dtype[Any], tuple[int, ...]]  # first byte, byte after the last, type, shape


def _place(file: Path, name: str, info: object, data_bytes: int) -> _Place:
    """Where a header puts a tensor, checked by the format's rules."""
    where = f"tensor {quoted(name)!r} in {file}"
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} has no dtype, shape and data_offsets, or more: copy the file again")
    if not isinstance(info["dtype"], str) or info["dtype"] not in _DTYPES:
        raise CheckpointError(
            f"{where} is {quoted(info['dtype'])}; supported are {', '.join(_DTYPES)}: convert the checkpoint"
        )
    dtype = _DTYPES[info["dtype"]]
    shape, offsets = _sizes(info["shape"]), _sizes(info["data_offsets"])
    if shape is None or offsets is None or len(offsets) != 2 or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{where} has a damaged shape or data_offsets: copy the file again")
    start, end = offsets
    if end - start != dtype.itemsize * math.prod(shape):
        raise CheckpointError(f"{where} has {end - start} bytes, its shape wants more or fewer: copy the file again")
    if end > data_bytes:
        raise CheckpointError(
            f"shard {file} is truncated: tensor {quoted(name)!r} ends at byte {end} of its data, which has "
            f"{data_bytes}; copy it again"
        )
    return start, end, dtype, shape


def _sizes(value: object) -> tuple[int, ...] | None:
    """A list of counts, or None."""
    if not isinstance(value, list) or any(type(item) is not int or not 0 <= item < 1 << 60 for item in value):
        return None
    return tuple(value)


def _check_layout(file: Path, places: Mapping[str, _Place], data_bytes: int) -> None:
    """Raise CheckpointError unless tensors follow each other without gap or overlap, as the format has it."""
    position = 0
    for name, (start, end, _, _) in sorted(places.items(), key=lambda item: item[1][:2]):
        if start != position:
            raise CheckpointError(
                f"tensor {quoted(name)!r} in {file} begins at byte {start} of the data, the one before it ends at "
                f"{position}: the header is damaged; copy the file again"
            )
        position = end
    if position != data_bytes:
        raise CheckpointError(f"shard {file} has {data_bytes - position} bytes of no tensor at its end: copy it again")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises CheckpointError if the file is missing or holds something else."""
    if path.is_file():
        check_no_pointer(path)
    try:
        document = loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: give the checkpoint's own folder, completely downloaded, tokenizer files too"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): copy it again") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({quoted(error)}): copy it again") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} should hold a JSON object: copy it again")
    return document
