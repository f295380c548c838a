"""Lines of JSON, also compressed or in a JSON array: an index over the rows, then rows by offset."""

import hashlib
from array import array
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.datasets.parsed_row import BadRow, row_from_line
from vprm_runtime.datasets.places import Places
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.row_files import RowFile, bounded_lines
from vprm_runtime.datasets.row_notes import RowNotes
from vprm_runtime.datasets.unchanged import FileState, LineHashes
from vprm_runtime.errors import InputError


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
        self._offsets, self.total = offsets, len(offsets)
        self.numbers: Container[int] = range(self.total) if places is None else places.numbers
        self.image_roots = (image_root,) if places is None else places.image_roots
        self._order: NDArray[np.int64] = np.argsort(np.frombuffer(groups, np.uint64), kind="stable")
        self.fingerprint = f"sha256:{content.hexdigest()}"
        self.notes = notes.lines

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


def numbered_lines(file: RowFile) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line of a file of rows, blank ones too."""
    offset = file.begin
    with file.path.open("rb") as stream:
        stream.seek(offset)
        for line in bounded_lines(stream, str(file.path)):
            yield offset, line
            offset += len(line)
