"""Files of rows, read one row at a time in scoring order: rows with the same images and question follow each other.

Every command reads its rows here. jsonl (also compressed, or a JSON array: see row_files.py): one pass makes an index
(offset, id, group of each row), then rows are read by offset, groups in the order of their first row. parquet: rows in
file order, so only neighbours share a prefix; memory is one row group's batch.
"""

import hashlib
import json
import logging
from array import array
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.datasets.places import Places
from vprm_runtime.datasets.row import Row, RowId, record_id, row_from_record
from vprm_runtime.datasets.row_files import PARQUET_MAGIC, RowFile, bounded_lines
from vprm_runtime.datasets.row_images import is_image_key
from vprm_runtime.datasets.row_json import fault_of
from vprm_runtime.datasets.row_keys import KNOWN_KEYS
from vprm_runtime.datasets.row_notes import LiveNotes, RowNotes
from vprm_runtime.datasets.unchanged import FileState, LineHashes, content_hash
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.extras import import_optional
from vprm_runtime.files import NotRegularError, open_regular
from vprm_runtime.strict_json import unique_keys

_PARQUET_BATCH_ROWS = 16
_LOG = logging.getLogger("vprm")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why. `number` is its place in the file, from 0."""

    id: RowId
    error: str
    number: int = 0


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

    @property
    def image_roots(self) -> tuple[Path, ...]:
        """Where relative image paths start; several for a shard of several files."""
        ...

    @property
    def numbers(self) -> Container[int]:
        """The rows' numbers: their places in the file, or in the one that a shard was cut from."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a user should see: keys that are not read, ids that repeat."""
        ...

    def ids(self) -> Iterator[RowId]:
        """All ids, in any order."""
        ...

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows in scoring order."""
        ...


def open_rows(path: Path, image_root: Path | None = None) -> RowSource:
    """Open a file of rows, told apart by content; relative image paths start at `image_root`, or beside the file.

    The rows of a shard (see shards.py) have their numbers and places in the files that were cut.
    Raises InputError if the file is missing, empty or holds something else, MissingExtraError if pyarrow is
    missing.
    """
    root = path.parent if image_root is None else image_root
    if not root.is_dir():
        raise InputError(f"the image root {root} is not a directory: give the one that image paths start at")
    start = first_bytes(path)
    if (places := Places.of(path, image_root)) is not None:
        return JsonlRows(path, root, places)  # what there is to note was said when the shards were cut
    source = ParquetRows(path, root) if start == PARQUET_MAGIC else JsonlRows(path, root)
    for note in source.notes:
        _warn_once(str(path), note)
    return source


def first_bytes(path: Path) -> bytes:
    """The first four bytes of a file of rows. Raises InputError if it cannot be read or is no regular file."""
    if path.is_dir():
        raise InputError(f"{path} is a directory: name the file of rows in it")
    try:
        with open_regular(path) as file:
            return file.read(4)
    except NotRegularError as error:
        raise InputError(
            f"the rows' file {quoted(path)} is {error.strerror}: name a file, or give --input -"
        ) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"the rows' file {quoted(path)} cannot be read ({why}): check the path") from error


@lru_cache(maxsize=1024)
def _warn_once(path: str, note: str) -> None:
    """A command opens its rows several times; a note is logged the first time."""
    _LOG.warning("%s: %s", path, note)


def row_from_line(line: bytes, number: int, where: str, image_root: Path) -> Row | BadRow:
    """The row of a line of JSON; `number` (from 0) is its id where it has none, `where` says where it stands."""
    try:
        record = json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a key twice, too many digits
        return BadRow(number, f"{where} is not JSON ({error}): write one object for each line", number)
    if (fault := fault_of(record, line)) is not None:
        return BadRow(number, f"{where} {fault}", number)
    return _parsed(record, number, image_root, where)


class JsonlRows:
    """Lines of JSON with an index over the rows. Blank lines are skipped and not counted."""

    def __init__(self, path: Path, image_root: Path, places: Places | None = None) -> None:
        self._path, self._image_root, self._places = path, image_root, places
        self._file = RowFile(path)
        offsets, groups = array("Q"), array("Q")
        self._line_numbers, self._hashes = array("Q"), LineHashes()
        self._state = FileState.of(self._file.path)
        group_of: dict[bytes, int] = {}
        content = hashlib.sha256()
        notes = RowNotes()
        for line_number, (offset, line) in enumerate(numbered_lines(self._file), 1):
            content.update(line)
            if not line.strip():
                continue
            number = len(offsets)
            row = self._row(line, number, line_number)
            notes.add_id(row.id)
            if isinstance(row, Row):
                notes.add(row)
            key = row.group_key if isinstance(row, Row) else number.to_bytes(8, "little")
            groups.append(group_of.setdefault(key, len(group_of)))
            offsets.append(offset)
            self._hashes.append(line)
            self._line_numbers.append(line_number)
        if places is not None and len(places) != len(offsets):
            raise InputError(f"{path} has {len(offsets)} rows, {len(places)} were cut: cut them again with  vprm shard")
        self._offsets = offsets
        self._order: NDArray[np.int64] = np.argsort(np.frombuffer(groups, np.uint64), kind="stable")
        self._fingerprint = f"sha256:{content.hexdigest()}"
        self.notes = notes.lines

    @property
    def total(self) -> int:
        """Number of rows."""
        return len(self._offsets)

    @property
    def numbers(self) -> Container[int]:
        """The rows' numbers."""
        return range(self.total) if self._places is None else self._places.numbers

    @property
    def image_roots(self) -> tuple[Path, ...]:
        """Where relative image paths start."""
        return (self._image_root,) if self._places is None else self._places.image_roots

    @property
    def fingerprint(self) -> str:
        """Hash of the whole file."""
        return self._fingerprint

    def ids(self) -> Iterator[RowId]:
        """All ids, in scoring order."""
        return (row.id for row in self)

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows in scoring order. Raises ChangedInputError if the file is not what it was."""
        with self._file.path.open("rb") as file:
            for number in self._order.tolist():
                file.seek(self._offsets[number])
                line = file.readline()
                self._hashes.check(number, line, self._path)
                yield self._row(line, number, self._line_numbers[number])
        self._state.check()

    def _row(self, line: bytes, number: int, line_number: int) -> Row | BadRow:
        if self._places is not None and number < len(self._places):
            place = self._places[number]
            return row_from_line(line, place.number, place.where, place.image_root)
        where = f"element {number}" if self._file.is_array else f"line {line_number}"
        return row_from_line(line, number, where, self._image_root)


class ParquetRows:
    """A parquet file, read in small batches of only the columns that a row can have."""

    def __init__(self, path: Path, image_root: Path) -> None:
        self._path = path
        self._image_root, self._state = image_root, FileState.of(path)
        self._parquet, self._arrow_error = _import_parquet()
        try:
            with self._parquet.ParquetFile(path) as file:
                self._total = int(file.metadata.num_rows)
                self._columns = [field.name for field in file.schema_arrow if self._may_matter(field)]
                unread = [name for name in file.schema_arrow.names if name not in KNOWN_KEYS and not is_image_key(name)]
        except (self._arrow_error, OSError) as error:
            raise InputError(f"{path} is a damaged parquet file ({error}): download or write it again") from error
        if not self._total:
            raise InputError(f"{path} has no rows")
        if not KNOWN_KEYS.intersection(self._columns):
            raise InputError(f"{path} has none of the columns that a row can have: {', '.join(sorted(KNOWN_KEYS))}")
        self._fingerprint = f"sha256:{content_hash(path)}"
        self._notes = RowNotes()
        self._notes.add_unread(unread)
        for row_id in self.ids():
            self._notes.add_id(row_id)

    @property
    def total(self) -> int:
        """Number of rows."""
        return self._total

    @property
    def numbers(self) -> Container[int]:
        """The rows' numbers."""
        return range(self._total)

    @property
    def image_roots(self) -> tuple[Path, ...]:
        """Where relative image paths start."""
        return (self._image_root,)

    @property
    def fingerprint(self) -> str:
        """Hash of the whole file."""
        return self._fingerprint

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a user should see: columns that are not read, ids that repeat."""
        return self._notes.lines

    @staticmethod
    def _may_matter(field: Any) -> bool:
        """Whether a column is read: a known one, or one that may hold an image and so has to be looked at."""
        if field.name in KNOWN_KEYS or is_image_key(field.name):
            return True
        kind = str(field.type)
        return any(word in kind for word in ("string", "binary", "struct", "dictionary"))

    def ids(self) -> Iterator[RowId]:
        """All ids, in file order; reads the id column only."""
        if "id" not in self._columns:
            yield from range(self._total)
            return
        for number, record in enumerate(self.records(["id"])):
            try:
                yield record_id(record, number)
            except InputError:
                yield number

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows in file order."""
        notes = LiveNotes(partial(_warn_once, str(self._path)))  # of values; columns are noted when the file is opened
        for number, record in enumerate(self.records()):
            row = _parsed(record, number, self._image_root, f"row {number}")
            if isinstance(row, Row):
                notes.add(replace(row, unread=tuple(KNOWN_KEYS.intersection(row.unread))), f"row {number}")
            yield row

    def records(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Records with these columns, in file order (default: all that are read)."""
        wanted = columns or self._columns
        try:
            with self._parquet.ParquetFile(self._path) as file:
                for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=wanted, use_threads=False):
                    self._state.check()
                    yield from batch.to_pylist()
                self._state.check()
        except (self._arrow_error, OSError) as error:
            raise InputError(f"{self._path} is damaged ({error}): download or write it again") from error


def _parsed(record: object, number: int, image_root: Path, where: str) -> Row | BadRow:
    row_id: RowId = number
    try:
        row_id = record_id(record, number)
        return row_from_record(record, number, image_root)
    except InputError as error:
        return BadRow(row_id, f"{where}: {error}", number)


def numbered_lines(file: RowFile) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line of a file of rows, blank ones too."""
    offset = file.begin
    with file.path.open("rb") as stream:
        stream.seek(offset)
        for line in bounded_lines(stream, str(file.path)):
            yield offset, line
            offset += len(line)


def _import_parquet() -> tuple[Any, type[Exception]]:
    arrow, parquet = (import_optional(name, "reading parquet files", "data") for name in ("pyarrow", "pyarrow.parquet"))
    return parquet, arrow.ArrowException
