"""A record of a file becomes a row, or says why it cannot be read."""

import json
from dataclasses import dataclass
from pathlib import Path

from vprm_runtime.datasets.row import Row, RowId, record_id, row_from_record
from vprm_runtime.datasets.row_json import fault_of
from vprm_runtime.errors import InputError
from vprm_runtime.strict_json import unique_keys


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why. `number` is its place in the file, from 0."""

    id: RowId
    error: str
    number: int = 0


def row_from_line(line: bytes, number: int, where: str, image_root: Path) -> Row | BadRow:
    """The row of a line of JSON; `number` (from 0) is its id if it has none, `where` names its place."""
    try:
        record = json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a key twice, too many digits
        return BadRow(number, f"{where} is not JSON ({error}): write one object for each line", number)
    if (fault := fault_of(record, line)) is not None:
        return BadRow(number, f"{where} {fault}", number)
    return parsed_row(record, number, image_root, where)


def parsed_row(record: object, number: int, image_root: Path, where: str) -> Row | BadRow:
    """The row of a record; `where` names its place in errors."""
    row_id: RowId = number
    try:
        row_id = record_id(record, number)
        return row_from_record(record, number, image_root)
    except InputError as error:
        return BadRow(row_id, f"{where}: {error}", number)
