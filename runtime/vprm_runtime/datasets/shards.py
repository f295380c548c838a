"""Cut files of rows into shards, each a file of rows that `vprm score` takes, and name their outputs.

A row goes to the shard that the hash of its prefix picks, so rows about the same images and question stay together and
share a prefix. One pass, a bounded buffer for each shard: the rows need not fit in memory. Shards are written to a
temporary sibling and renamed when whole: an interrupted run never leaves something that opens.
"""

import base64
import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.jsonl import numbered_lines
from vprm_runtime.datasets.parquet import ParquetRows
from vprm_runtime.datasets.parsed_row import BadRow, row_from_line
from vprm_runtime.datasets.places import MANIFEST_NAME, SCHEMA, ShardInput, packed_place, places_path, read_manifest
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.row_files import PARQUET_MAGIC, RowFile
from vprm_runtime.datasets.row_notes import RowNotes
from vprm_runtime.datasets.source import check_image_root, first_bytes
from vprm_runtime.errors import InputError
from vprm_runtime.files import whole_folder

MAX_SHARDS = 100_000
_BUFFER_BYTES = 1 << 20
_ROWS_BETWEEN_REPORTS = 100
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """A shard: its file's name and its number of rows."""

    name: str
    rows: int

    @property
    def output_name(self) -> str:
        """Name of the file of its scores."""
        return self.name.removesuffix(".jsonl") + ".scores.jsonl"


@dataclass(frozen=True)
class ShardSet:
    """A directory of shards. Those that no row fell into are left out."""

    directory: Path
    inputs: tuple[ShardInput, ...]
    shards: tuple[Shard, ...]

    @staticmethod
    def open(directory: Path) -> "ShardSet":
        """Open a directory that `write_shards` made. Raises InputError if it is none, or a shard is missing."""
        inputs, document = read_manifest(directory)
        try:
            shards = tuple(Shard(str(item["name"]), int(item["rows"])) for item in document["shards"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{directory / MANIFEST_NAME} is damaged ({error}): cut the rows again") from error
        for shard in shards:
            for path in (directory / shard.name, places_path(directory / shard.name)):
                if not path.is_file():
                    raise InputError(f"{path} is missing: cut the rows again with  vprm shard")
        return ShardSet(directory, inputs, shards)

    @property
    def rows(self) -> int:
        """Number of rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Content of the files that were cut: the file's own if it is one, as an unsharded run describes its input."""
        prints = [item.fingerprint for item in self.inputs]
        return prints[0] if len(prints) == 1 else f"sha256:{hashlib.sha256(json.dumps(prints).encode()).hexdigest()}"


def write_shards(
    paths: Sequence[Path],
    target: Path,
    shards: int,
    image_root: Path | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> ShardSet:
    """Cut files of rows into at most `shards` files in the new directory `target`.

    Args:
        paths: jsonl (also compressed, or a JSON array) or parquet files, at least one; a row's number counts over all.
        target: a directory that does not exist yet.
        shards: into how many; shards without a row are left out.
        image_root: where relative image paths start (default: beside each file).
        progress: called now and then with the rows that are cut, and None: how many there are is not known before.

    Returns:
        The shards.

    Raises:
        InputError: a file cannot be read or has no rows, or `target` exists.
        MissingExtraError: pyarrow is missing for parquet.
    """
    if not 1 <= shards <= MAX_SHARDS:
        raise InputError(f"the number of shards must be between 1 and {MAX_SHARDS}, got {shards}")
    if not paths:
        raise InputError("name at least one file of rows")
    if target.exists():
        raise InputError(f"{target} exists already: choose another directory, or remove it")
    is_new = not target.parent.exists()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(target) as temporary:
            _cut(paths, temporary, shards, image_root, progress)
    except OSError as error:
        raise InputError(f"{target} cannot be made ({error.strerror}): choose another directory") from error
    finally:
        if is_new and not target.exists():
            with contextlib.suppress(OSError):
                target.parent.rmdir()  # nothing is left of rows that could not be cut
    return ShardSet.open(target)


def fingerprint_of(path: Path) -> str:
    """The content of a file of rows, as a run over it is described. Raises InputError as `write_shards` does."""
    return RowsInput(path, path.parent).read_fingerprint()


def _cut(
    paths: Sequence[Path],
    directory: Path,
    shards: int,
    image_root: Path | None,
    progress: Callable[[int, int | None], None],
) -> None:
    files = [ShardFile(directory / f"shard-{index:05d}-of-{shards:05d}.jsonl") for index in range(shards)]
    inputs: list[ShardInput] = []
    notes, number = RowNotes(), 0
    for path in paths:
        source, first = RowsInput(path, path.parent if image_root is None else image_root), number
        for position, line, row in source.rows(first):
            if isinstance(row, Row):
                notes.add(row)
            key = row.group_key if isinstance(row, Row) else number.to_bytes(8, "little")
            digest = hashlib.blake2b(key, digest_size=8).digest()
            place = packed_place(number, position, len(inputs))
            files[int.from_bytes(digest, "little") % shards].append(line, place)
            number += 1
            if number % _ROWS_BETWEEN_REPORTS == 0:
                progress(number, None)
        inputs.append(source.described(number - first))
    for note in notes.lines:
        _LOG.warning("%s", note)
    for file in files:
        file.flush()
    write_manifest(directory, inputs, files)


def write_manifest(directory: Path, inputs: Sequence[ShardInput], files: Sequence["ShardFile"]) -> None:
    """Write what `ShardSet.open` reads: the files that were cut, and the shards that have a row."""
    document = {
        "schema": SCHEMA,
        "inputs": [asdict(item) for item in inputs],
        "shards": [{"name": file.path.name, "rows": file.rows} for file in files if file.rows],
    }
    (directory / MANIFEST_NAME).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


class ShardFile:
    """A shard that is being written. It is open only while its buffer is written, so there may be many."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._lines, self._places = bytearray(), bytearray()

    def append(self, line: bytes, place: bytes) -> None:
        """Add a row's line, and what `packed_place` made of its place."""
        self._lines += line if line.endswith(b"\n") else line + b"\n"
        self._places += place
        self.rows += 1
        if len(self._lines) > _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory."""
        for path, content in ((self.path, self._lines), (places_path(self.path), self._places)):
            if content:
                with path.open("ab") as file:
                    file.write(content)
                content.clear()


class RowsInput:
    """A file to cut. `fingerprint`, `unit` and `described` are right after `rows` has come to its end."""

    def __init__(self, path: Path, image_root: Path) -> None:
        self.path, self.image_root = path, image_root
        self.fingerprint, self.unit = "", "line"
        check_image_root(image_root)
        self._is_parquet = first_bytes(path) == PARQUET_MAGIC

    def rows(self, first: int) -> Iterator[tuple[int, bytes, Row | BadRow]]:
        """(position in the file, line, row) of every row; the first one's number is `first`."""
        lines = self._parquet_lines() if self._is_parquet else self._text_lines()
        for number, (position, line) in enumerate(lines, first):
            yield position, line, row_from_line(line, number, f"{self.unit} {position}", self.image_root)

    def described(self, rows: int) -> ShardInput:
        """The file for a manifest; it has `rows` rows."""
        root = os.path.abspath(self.image_root)
        return ShardInput(os.path.abspath(self.path), root, self.unit, rows, self.fingerprint)

    def read_fingerprint(self) -> str:
        """The fingerprint alone."""
        if self._is_parquet:
            return ParquetRows(self.path, self.image_root).fingerprint
        for _ in self._text_lines():
            pass
        return self.fingerprint

    def _text_lines(self) -> Iterator[tuple[int, bytes]]:
        file, content, count = RowFile(self.path), hashlib.sha256(), 0
        self.unit = "element" if file.is_array else "line"
        for line_number, (_, line) in enumerate(numbered_lines(file), 1):
            content.update(line)
            if line.strip():
                yield (count if file.is_array else line_number), line
                count += 1
        self.fingerprint = f"sha256:{content.hexdigest()}"

    def _parquet_lines(self) -> Iterator[tuple[int, bytes]]:
        source = ParquetRows(self.path, self.image_root)
        self.unit = "row"
        for number, record in enumerate(source.records()):
            yield number, json.dumps(record, default=_json_value).encode()
        self.fingerprint = source.fingerprint


def _json_value(value: Any) -> str:
    """A value that parquet has and JSON has not: bytes as a data URL, times and decimals as text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"data:;base64,{base64.b64encode(value).decode()}"
    return str(value)
