"""Rows of a file that is no jsonl: an array, objects over several lines, an object that wraps the rows, columns."""

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vprm_runtime.errors import InputError, quoted
from vprm_runtime.machine import available_memory_bytes
from vprm_runtime.strict_json import unique_keys

_WRAPPERS = ("data", "rows", "examples", "instances")
MAX_LINE_BYTES = 1 << 30  # a row with an image of 0.8 GB in base64
_MEMORY = 8  # bytes for a byte of JSON: the text, its decoded copy, and Python's objects
_BLANKS = re.compile(r"\s*")


def rows_of_document(path: Path, named: Path) -> list[Any] | None:
    """The rows of a UTF-8 file of JSON, or None if it is jsonl: several lines, the first of them a whole row.

    The whole document is in memory while this runs. `named` is what messages call the file. Raises InputError if the
    document is not whole or has no rows.
    """
    first, second = _first_lines(path)
    parsed = _parsed(first)
    if isinstance(parsed, Mapping) and (second or _rows_of(parsed, named) == [parsed]):
        return None
    is_object = first.startswith(b"{")
    _check_memory(path, named)
    try:
        documents = _documents(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        at_line = getattr(error, "lineno", 1)
        if is_object and (at_line == 1 or isinstance(_parsed(second), Mapping)):
            return None  # jsonl whose first line is damaged
        kind = "object over several lines" if is_object else "array"
        raise InputError(f"{named} begins as a JSON {kind} but is not whole ({error}): write it again") from error
    rows = [row for document in documents for row in _rows_of(document, named)]
    if not rows:
        raise InputError(f"{named} is an empty JSON array: there are no rows")
    return rows


def _first_lines(path: Path) -> tuple[bytes, bytes]:
    """The first two lines with anything in them, without the mark of UTF-8; empty if there are fewer."""
    with path.open("rb") as file:
        whole = iter(lambda: file.readline(MAX_LINE_BYTES), b"")
        lines = (line.removeprefix(codecs.BOM_UTF8).strip() for line in whole)
        filled = (line for line in lines if line)
        return next(filled, b""), next(filled, b"")


def _check_memory(path: Path, named: Path) -> None:
    """Raise InputError if a document is larger than memory can hold when it is parsed."""
    size, available = path.stat().st_size, available_memory_bytes()
    if available is not None and size * _MEMORY > available:
        raise InputError(
            f"{named} is one JSON document of {size:,} bytes, which takes about {size * _MEMORY:,} bytes of memory to "
            f"read; {available:,} are free: write one JSON object for each line, which is read one at a time"
        )


def _parsed(line: bytes) -> Any:
    """A line as JSON; None if it is not."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _documents(text: str) -> list[Any]:
    """The JSON documents of a text, one after the other."""
    decoder, found = json.JSONDecoder(object_pairs_hook=unique_keys), []
    position = _after_blanks(text, 0)
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
        position = _after_blanks(text, position)
    return found


def _after_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return position if match is None else match.end()


def _rows_of(document: object, named: Path) -> list[Any]:
    """The rows that a document is: itself, the elements of its list, or what its columns have at each place."""
    if isinstance(document, list):
        return document
    if not isinstance(document, Mapping):
        raise InputError(f"{named} holds {quoted(document, 60)}, no row: write one JSON object for each line")
    if isinstance(columns := document.get("columns"), list) and isinstance(data := document.get("data"), list):
        if any(not isinstance(row, list) or len(row) != len(columns) for row in data):
            raise InputError(f"{named} has rows in data that are not as long as columns: write it again")
        return [dict(zip(columns, row, strict=True)) for row in data]
    if _is_columnar(document):
        return _transposed(document, named)
    if "question" in document or "conversations" in document:
        return [document]
    wrapped = next((document[name] for name in _WRAPPERS if isinstance(document.get(name), list)), None)
    return [document] if wrapped is None else list(wrapped)


def _is_columnar(document: Mapping[str, Any]) -> bool:
    """Whether the question, or the conversation, is a column: no row has a list or an object there."""
    question, turns = document.get("question"), document.get("conversations")
    return isinstance(question, list | Mapping) or (
        isinstance(turns, list) and bool(turns) and all(isinstance(turn, list) for turn in turns)
    )


def _transposed(document: Mapping[str, Any], named: Path) -> list[Any]:
    """Rows of columns, which are lists, or objects of values by index (pandas)."""
    columns: dict[str, Sequence[Any]] = {}
    for key, column in document.items():
        if not isinstance(column, list | Mapping):
            raise InputError(
                f"{named} has columns, and {quoted(key, 60)} is none: give a list of as many values as rows"
            )
        columns[key] = column if isinstance(column, list) else list(column.values())
    indices = [list(column) for column in document.values() if isinstance(column, Mapping)]
    if any(index != indices[0] for index in indices) or len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{quoted(key, 40)} {len(column)}" for key, column in columns.items())
        raise InputError(f"{named} has columns of other lengths or indices than each other: {quoted(lengths)}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
