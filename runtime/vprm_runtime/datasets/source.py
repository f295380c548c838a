"""Files of rows, read one row at a time in scoring order: rows with the same images and question follow each other.

jsonl: one pass makes an index (offset, id, group of each row), then rows are read by offset, groups in the order of
their first row. parquet: rows in file order, so only neighbours share a prefix; memory is one row group's batch.
"""

import hashlib
import importlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.datasets.row import RECORD_KEYS, Row, RowId, record_id, row_from_record
from vprm_runtime.errors import InputError, MissingExtraError

_PARQUET_MAGIC = b"PAR1"
_PARQUET_BATCH_ROWS = 16
_SURROGATE_ESCAPE = b"\\ud"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why."""

    id: RowId
    error: str


class RowSource(Protocol):
    """A file of rows. Iterating twice gives the same rows in the same order."""

    @property
    def total(self) -> int:
        """Number of rows."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the file's content does."""
        ...

    def ids(self) -> Iterator[RowId]:
        """All ids, in any order."""
        ...

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows in scoring order."""
        ...


def open_rows(path: Path, image_root: Path | None = None) -> RowSource:
    """Open a jsonl or parquet file, told apart by content; relative image paths start at `image_root`, or beside it.

    Raises InputError where the file is missing, empty or of neither kind, MissingExtraError where pyarrow is missing.
    """
    root = path.parent if image_root is None else image_root
    if not root.is_dir():
        raise InputError(f"the image root {root} is not a directory: give the one that image paths start at")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"the rows' file {path} cannot be read ({error.strerror}): check the path") from error
    return ParquetRows(path, root) if start == _PARQUET_MAGIC else JsonlRows(path, root)


def row_from_line(line: bytes, number: int, where: str, image_root: Path) -> Row | BadRow:
    """The row of a line of JSON; `number` (from 0) is its id where it has none, `where` says where it stands."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, an integer of thousands of digits
        return BadRow(number, f"{where} is not JSON ({error}): write one object a line")
    if _SURROGATE_ESCAPE in line.lower() and _has_half_character(record):
        return BadRow(number, f"{where} has half a surrogate pair: write such characters whole")
    return _parsed(record, number, image_root, where)


class JsonlRows:
    """A jsonl file with an index over its rows. Blank lines are skipped and not counted."""

    def __init__(self, path: Path, image_root: Path) -> None:
        self._path = path
        self._image_root = image_root
        offsets, groups = array("Q"), array("Q")
        self._line_numbers = array("Q")
        group_of: dict[bytes, int] = {}
        content = hashlib.sha256()
        with path.open("rb") as file:
            for line_number, (offset, line) in enumerate(_lines(file), 1):
                content.update(line)
                if not line.strip():
                    continue
                number = len(offsets)
                row = self._row(line, number, line_number)
                key = row.group_key if isinstance(row, Row) else number.to_bytes(8, "little")
                groups.append(group_of.setdefault(key, len(group_of)))
                offsets.append(offset)
                self._line_numbers.append(line_number)
        self._check(path, len(offsets))
        self._offsets = offsets
        self._order: NDArray[np.int64] = np.argsort(np.frombuffer(groups, np.uint64), kind="stable")
        self._fingerprint = f"sha256:{content.hexdigest()}"

    @property
    def total(self) -> int:
        """Number of rows."""
        return len(self._offsets)

    @property
    def fingerprint(self) -> str:
        """Hash of the whole file."""
        return self._fingerprint

    def ids(self) -> Iterator[RowId]:
        """All ids, in scoring order."""
        return (row.id for row in self)

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows in scoring order."""
        with self._path.open("rb") as file:
            for number in self._order.tolist():
                file.seek(self._offsets[number])
                yield self._row(file.readline(), number, self._line_numbers[number])

    def _row(self, line: bytes, number: int, line_number: int) -> Row | BadRow:
        return row_from_line(line, number, f"line {line_number}", self._image_root)

    def _check(self, path: Path, rows: int) -> None:
        if not rows:
            raise InputError(f"{path} has no rows: write one JSON object a line")
        with path.open("rb") as file:
            start = file.read(512).lstrip()
        if not start.startswith(b"{"):
            kind = "a JSON array" if start.startswith(b"[") else "neither jsonl nor parquet"
            raise InputError(f"{path} is {kind}: write one JSON object a line, or a parquet file")


class ParquetRows:
    """A parquet file, read in small batches of only the columns that a row can have."""

    def __init__(self, path: Path, image_root: Path) -> None:
        self._path = path
        self._image_root = image_root
        self._parquet, self._arrow_error = _import_parquet()
        try:
            with self._parquet.ParquetFile(path) as file:
                self._total = int(file.metadata.num_rows)
                self._columns = [name for name in file.schema_arrow.names if name in RECORD_KEYS]
        except (self._arrow_error, OSError) as error:
            raise InputError(f"{path} is a damaged parquet file ({error}): download or write it again") from error
        if not self._total:
            raise InputError(f"{path} has no rows")
        if not self._columns:
            raise InputError(f"{path} has none of the columns that a row can have: {', '.join(RECORD_KEYS)}")
        self._fingerprint = _parquet_fingerprint(path)

    @property
    def total(self) -> int:
        """Number of rows."""
        return self._total

    @property
    def fingerprint(self) -> str:
        """Hash of the file's size and footer: schema, row groups, statistics."""
        return self._fingerprint

    def ids(self) -> Iterator[RowId]:
        """All ids, in file order; reads the id column only."""
        if "id" not in self._columns:
            yield from range(self._total)
            return
        for number, record in enumerate(self._records(["id"])):
            try:
                yield record_id(record, number)
            except InputError:
                yield number

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows in file order."""
        for number, record in enumerate(self._records(self._columns)):
            yield _parsed(record, number, self._image_root, f"row {number}")

    def _records(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        try:
            with self._parquet.ParquetFile(self._path) as file:
                for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=columns, use_threads=False):
                    yield from batch.to_pylist()
        except (self._arrow_error, OSError) as error:
            raise InputError(f"{self._path} is damaged ({error}): download or write it again") from error


def _parsed(record: object, number: int, image_root: Path, where: str) -> Row | BadRow:
    row_id: RowId = number
    try:
        row_id = record_id(record, number)
        return row_from_record(record, number, image_root)
    except InputError as error:
        return BadRow(row_id, f"{where}: {error}")


def _has_half_character(record: object) -> bool:
    """Whether a text holds half of a surrogate pair, as from a lone escape in JSON: it cannot be encoded."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line."""
    offset = 0
    for line in file:
        yield offset, line
        offset += len(line)


def _parquet_fingerprint(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(size - 8)
        footer_bytes = int.from_bytes(file.read(4), "little")
        file.seek(size - 8 - footer_bytes)
        footer = file.read(footer_bytes)
    return f"parquet:{size}:{hashlib.sha256(footer).hexdigest()}"


def _import_parquet() -> tuple[Any, type[Exception]]:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("reading parquet files", "data") from error
    return parquet, arrow.ArrowException
