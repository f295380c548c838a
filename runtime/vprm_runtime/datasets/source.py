"""Files of rows, read one row at a time in scoring order: rows with the same images and question follow each other.

Every command reads its rows here. jsonl (also compressed, or a JSON array: see row_files.py): one pass makes an index
(offset, id, group of each row), then rows are read by offset, groups in the order of their first row. parquet: rows in
file order, so only neighbours share a prefix; memory is one row group's batch.
"""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Protocol

from vprm_runtime.datasets.jsonl import JsonlRows
from vprm_runtime.datasets.parquet import ParquetRows
from vprm_runtime.datasets.parsed_row import BadRow
from vprm_runtime.datasets.places import Places
from vprm_runtime.datasets.row import Row
from vprm_runtime.datasets.row_files import PARQUET_MAGIC
from vprm_runtime.datasets.row_notes import warn_once
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.files import NotRegularError, open_regular


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
    check_image_root(root)
    start = first_bytes(path)
    if (places := Places.of(path, image_root)) is not None:
        return JsonlRows(path, root, places)  # what there is to note was said when the shards were cut
    source = ParquetRows(path, root) if start == PARQUET_MAGIC else JsonlRows(path, root)
    for note in source.notes:
        warn_once(str(path), note)
    return source


def check_image_root(root: Path) -> None:
    """Raise InputError unless it is a directory."""
    if not root.is_dir():
        raise InputError(f"the image root {root} is not a directory: give the one that image paths start at")


def first_bytes(path: Path) -> bytes:
    """The first four bytes of a file of rows. Raises InputError if it cannot be read or is no regular file."""
    if path.is_dir():
        raise InputError(f"{path} is a directory: name the file of rows in it")
    try:
        with open_regular(path) as file:
            return file.read(4)
    except NotRegularError as error:
        raise InputError(
            f"the rows' file {quoted(path)} is {error.strerror}, and rows are read more than once: write them into a "
            "file and name that (rows from a pipe are scored by  vprm score --input -)"
        ) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"the rows' file {quoted(path)} cannot be read ({why}): check the path") from error
