"""Where the rows of a shard were in the files that were cut: a shard is read as if it still were in its place there.

    shards.json                          the files that were cut, and the shards (see shards.py)
    shard-00003-of-00016.jsonl           a shard: rows, one a line, as they were
    shard-00003-of-00016.jsonl.places    uint64 [rows, 3], little-endian: row, position in its file, number of its file

Rows keep their numbers, so outputs of shards merge by number, and messages name the line that the user has.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.errors import InputError

MANIFEST_NAME = "shards.json"
SCHEMA = 1
_SUFFIX = ".places"
_DTYPE = np.dtype("<u8")


@dataclass(frozen=True)
class ShardInput:
    """A file that was cut: its path, where its image paths start, what its positions count, its rows and content."""

    path: str
    image_root: str
    unit: str  # "line", "element" or "row"
    rows: int
    fingerprint: str


@dataclass(frozen=True)
class Place:
    """A row's number over all files that were cut, how messages name its position, where its image paths start."""

    number: int
    where: str
    image_root: Path


class Places:
    """The places of a shard's rows, by their position in the shard."""

    def __init__(self, table: NDArray[np.uint64], inputs: tuple[ShardInput, ...], image_root: Path | None) -> None:
        self._table, self._inputs, self._image_root = table, inputs, image_root

    @staticmethod
    def of(path: Path, image_root: Path | None) -> "Places | None":
        """The places of the shard at `path`, or None if it is no shard. `image_root` counts instead of recorded ones.

        Raises InputError if what stands beside a shard is missing or damaged, or an image root is no directory.
        """
        beside = places_path(path)
        if not beside.is_file():
            return None
        table = np.fromfile(beside, _DTYPE)
        inputs = read_manifest(path.parent)[0]
        if table.size % 3 or (table.size and int(table[2::3].max()) >= len(inputs)):
            raise InputError(f"{beside} is damaged: cut the rows again with  vprm shard")
        roots = {item.image_root for item in inputs} if image_root is None else set()
        for root in roots:
            if not Path(root).is_dir():
                raise InputError(f"image paths started at {root}, which is not here: give --image-root")
        return Places(table.reshape(-1, 3), inputs, image_root)

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of all rows."""
        return frozenset(self._table[:, 0].tolist())

    @property
    def image_roots(self) -> tuple[Path, ...]:
        """The folders that relative image paths start at."""
        if self._image_root is not None:
            return (self._image_root,)
        return tuple(sorted({Path(source.image_root) for source in self._inputs}))

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Place:
        number, position, input_number = (int(value) for value in self._table[index])
        source = self._inputs[input_number]
        where = f"{source.unit} {position}"
        if len(self._inputs) > 1:
            where += f" of {Path(source.path).name}"
        return Place(number, where, self._image_root or Path(source.image_root))


def places_path(shard: Path) -> Path:
    """The file beside a shard that holds its places."""
    return shard.with_name(shard.name + _SUFFIX)


def packed_place(number: int, position: int, input_number: int) -> bytes:
    """A place as the file beside a shard has it."""
    return np.array([number, position, input_number], _DTYPE).tobytes()


def read_manifest(directory: Path) -> tuple[tuple[ShardInput, ...], dict[str, Any]]:
    """The files that were cut, and the whole document. Raises InputError if the directory holds no shards."""
    path = directory / MANIFEST_NAME
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema"] != SCHEMA:
            raise InputError(f"{path} has schema {document['schema']}, this version reads {SCHEMA}: cut the rows again")
        return tuple(ShardInput(**item) for item in document["inputs"]), document
    except OSError as error:
        raise InputError(
            f"{directory} holds no shards ({MANIFEST_NAME}: {error.strerror}): make them with  vprm shard ROWS -o DIR"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged ({error}): cut the rows again with  vprm shard") from error
