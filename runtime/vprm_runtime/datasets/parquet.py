"""Parquet files of rows, read in small batches in file order: only neighbours share a prefix."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.parsed_row import BadRow, parsed_row
from vprm_runtime.datasets.row import Row, RowId, record_id
from vprm_runtime.datasets.row_images import is_image_key
from vprm_runtime.datasets.row_keys import KNOWN_KEYS
from vprm_runtime.datasets.row_notes import LiveNotes, RowNotes, warn_once
from vprm_runtime.datasets.unchanged import FileState, content_hash
from vprm_runtime.errors import InputError
from vprm_runtime.extras import import_optional

_PARQUET_BATCH_ROWS = 16
_INTEGERS = re.compile(r"(?:large_)?list<\w+: u?int\d+(?: not null)?>")


class ParquetRows:
    """A parquet file, read in small batches of only the columns that a row can have."""

    def __init__(self, path: Path, image_root: Path) -> None:
        self._path = path
        self._image_root, self._state = image_root, FileState.of(path)
        self._parquet, self._arrow_error = _import_parquet()
        try:
            with self._parquet.ParquetFile(path) as file:
                self.total = int(file.metadata.num_rows)
                self._columns = [field.name for field in file.schema_arrow if self._may_matter(field)]
                self._maps = {field.name for field in file.schema_arrow if "map<" in str(field.type)}
                unread = [name for name in file.schema_arrow.names if name not in KNOWN_KEYS and not is_image_key(name)]
        except (self._arrow_error, OSError) as error:
            raise InputError(f"{path} is a damaged parquet file ({error}): download or write it again") from error
        if not self.total:
            raise InputError(f"{path} has no rows")
        if not KNOWN_KEYS.intersection(self._columns):
            raise InputError(f"{path} has none of the columns that a row can have: {', '.join(sorted(KNOWN_KEYS))}")
        self.numbers, self.image_roots = range(self.total), (image_root,)
        self.fingerprint = f"sha256:{content_hash(path)}"
        notes = RowNotes()
        notes.add_unread(unread)
        for row_id in self._ids():
            notes.add_id(row_id)
        self.notes = notes.lines

    @staticmethod
    def _may_matter(field: Any) -> bool:
        """Whether a column is read: a known one, or one that may hold an image, or say something of one, or be a limit
        under another name, and so has to be looked at. Lists of numbers (pixels, embeddings) are not."""
        if field.name in KNOWN_KEYS or is_image_key(field.name):
            return True
        kind = str(field.type)
        texts = any(word in kind for word in ("string", "binary", "struct", "dictionary", "map"))
        return texts or "list" not in kind or _INTEGERS.fullmatch(kind) is not None

    def _ids(self) -> Iterator[RowId]:
        """All ids, in file order; reads the id column only."""
        if "id" not in self._columns:
            yield from range(self.total)
            return
        for number, record in enumerate(self.records(["id"])):
            try:
                yield record_id(record, number)
            except InputError:
                yield number

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows in file order."""
        notes = LiveNotes(partial(warn_once, str(self._path)))  # of values; columns are noted when the file is opened
        for number, record in enumerate(self.records()):
            row = parsed_row(record, number, self._image_root, f"row {number}")
            if isinstance(row, Row):
                notes.add(replace(row, unread=tuple(KNOWN_KEYS.intersection(row.unread))), f"row {number}")
            yield row

    def _with_objects(self, record: dict[str, Any]) -> dict[str, Any]:
        return {key: _object_of_pairs(value) if key in self._maps else value for key, value in record.items()}

    def records(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Records with these columns, in file order (default: all that are read)."""
        wanted = columns or self._columns
        try:
            with self._parquet.ParquetFile(self._path) as file:
                for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=wanted, use_threads=False):
                    self._state.check()
                    yield from map(self._with_objects, batch.to_pylist())
                self._state.check()
        except (self._arrow_error, OSError) as error:
            raise InputError(f"{self._path} is damaged ({error}): download or write it again") from error


def _object_of_pairs(value: object) -> object:
    """A map's pairs as an object, at any depth: pyarrow gives a list of tuples, and tuples for nothing else."""
    if isinstance(value, dict):
        return {key: _object_of_pairs(part) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    if value and all(isinstance(part, tuple) for part in value):
        return {str(key): _object_of_pairs(part) for key, part in value}
    return [_object_of_pairs(part) for part in value]


def _import_parquet() -> tuple[Any, type[Exception]]:
    arrow, parquet = (import_optional(name, "reading parquet files", "data") for name in ("pyarrow", "pyarrow.parquet"))
    return parquet, arrow.ArrowException
