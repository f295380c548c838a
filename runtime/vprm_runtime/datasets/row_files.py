"""A file of rows as plain jsonl: UTF-8 as it is; compressed, UTF-16 or -32, and other JSON by way of a temporary file.

Other JSON is what row_document.py reads: an array, an object over several lines, columns.
"""

import codecs
import gzip
import json
import re
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from vprm_runtime.datasets.row_document import MAX_LINE_BYTES, rows_of_document
from vprm_runtime.errors import InputError
from vprm_runtime.extras import import_optional
from vprm_runtime.machine import free_disk_bytes

PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_FRAME = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # that zstd files of pzstd begin with
_OTHERS = {
    b"ARROW1": "an Arrow IPC file: save the data set as parquet or jsonl",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"BZh": "bzip2-compressed: decompress it, or compress it with gzip or zstd",
    b"\xfd7zXZ": "xz-compressed: decompress it, or compress it with gzip or zstd",
    b"\x89HDF": "an HDF5 file: save the data as parquet or jsonl",
    b"SQLite": "an SQLite database: save the data as parquet or jsonl",
    b"\x80\x04": "a pickle, which can run code when it is opened: save the data as parquet or jsonl",
    b"\x93NUMPY": "a NumPy file: save the data as parquet or jsonl",
}
_START_BYTES = 512
_CHUNK_BYTES = 1 << 20
_FREE_BYTES, _MAX_RATIO = 1 << 30, 100  # a small file may become so large, others so many times as large
_KEPT_FREE_BYTES = 1 << 28  # on the disk, for others


class RowFile:
    """A file of lines that are rows: the user's own, or a temporary one that goes with this object.

    `path` is the file of lines, rows begin at byte `begin`; with `is_array`, each line is a row of one JSON document.
    """

    def __init__(self, path: Path) -> None:
        """Look into `path`. Raises InputError saying what it is if it holds no rows, MissingExtraError for zstd."""
        self.path, self.begin, self.is_array = path, 0, False
        start = self._start()
        if start.startswith((_GZIP_MAGIC, _ZSTD_MAGIC)) or _SKIPPABLE_FRAME.match(start):
            start = self._replace(partial(_decompress, is_gzip=start.startswith(_GZIP_MAGIC)))
        encoding = self._encoding()
        if not encoding.startswith("utf-8"):
            start = self._replace(partial(_decode, encoding=encoding))
        self.begin = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        text = start[self.begin :].lstrip()
        if not text.startswith((b"[", b"{")):
            _refuse(path, start)
        if (rows := rows_of_document(self.path, path)) is not None:
            self._replace(partial(_write_lines, rows=rows))
            self.is_array, self.begin = True, 0

    def _encoding(self) -> str:
        """The encoding of a text that is JSON, by its byte order mark or by where its first characters have zeros."""
        with self.path.open("rb") as file:
            start = file.read(_START_BYTES)
        found = json.detect_encoding(start[:4])
        if found.startswith("utf-8") or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return found
        text = start.decode(found, "replace").lstrip("\ufeff \t\r\n")
        return found if text[:1] in ("[", "{") else "utf-8"  # other files begin with zeros too

    def _start(self) -> bytes:
        """The byte order mark of UTF-8 if there is one, and the first bytes after blank lines."""
        with self.path.open("rb") as file:
            start = file.read(_START_BYTES)
            mark = codecs.BOM_UTF8 if start.startswith(codecs.BOM_UTF8) else b""
            text = start[len(mark) :].lstrip()
            while not text and (start := file.read(_START_BYTES)):
                text = start.lstrip()
            return mark + text + file.read(_START_BYTES)

    def _replace(self, convert: Callable[[Path, BinaryIO], None]) -> bytes:
        """Go on with a temporary file that `convert` writes; its first bytes."""
        with tempfile.NamedTemporaryFile(prefix="vprm-rows-", suffix=".jsonl", delete=False) as target:
            temporary = Path(target.name)
            weakref.finalize(self, temporary.unlink, missing_ok=True)
            convert(self.path, target)  # type: ignore[arg-type]
        self.path = temporary
        return self._start()


def bounded_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a stream. Raises InputError at one that is longer than any row."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{name} has a line of more than {MAX_LINE_BYTES:,} bytes: write one row for each line, and give large "
                "images as files"
            )
        yield line


def _decompress(path: Path, target: BinaryIO, is_gzip: bool) -> None:
    try:
        if is_gzip:
            with gzip.open(path, "rb") as stream:
                _copy(stream, path, target)
        else:
            arrow = import_optional("pyarrow", "reading zst files", "data")
            with arrow.OSFile(str(path)) as file, arrow.CompressedInputStream(file, "zstd") as stream:
                _copy(stream, path, target)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be decompressed ({error}): download or write it again") from error


def _copy(stream: Any, path: Path, target: BinaryIO) -> None:
    """Decompress; InputError if that gives far more than any rows do, or would fill the disk."""
    limit = max(_FREE_BYTES, _MAX_RATIO * path.stat().st_size)
    room = free_disk_bytes(Path(target.name)) or 1 << 62
    size = 0
    while chunk := stream.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes and more than {limit:,} when decompressed: rows do not "
                "compress so well; if these do, decompress the file yourself"
            )
        if size > room - _KEPT_FREE_BYTES:
            raise InputError(
                f"{path} has more than {size:,} bytes when decompressed, and {Path(target.name).parent} has {room:,} "
                "free: make room, or name another folder in TMPDIR"
            )
        target.write(chunk)


def _decode(path: Path, target: BinaryIO, encoding: str) -> None:
    try:
        with path.open("r", encoding=encoding, newline="") as file:
            for text in file:
                target.write(text.encode("utf-8"))
    except UnicodeError as error:
        raise InputError(f"{path} is damaged {encoding.upper()} ({error}): write it as UTF-8") from error


def _write_lines(path: Path, target: BinaryIO, rows: list[Any]) -> None:
    for row in rows:
        target.write(json.dumps(row).encode() + b"\n")


def _refuse(path: Path, start: bytes) -> NoReturn:
    """Raise InputError that says what the file is."""
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise InputError(f"{path} is {what}")
    if not start.strip():
        raise InputError(f"{path} has no rows: write one JSON object for each line")
    try:
        first = start.decode("utf-8").splitlines()[0]
    except UnicodeDecodeError as error:
        if error.end < len(start) - 4:
            raise InputError(f"{path} is neither jsonl nor parquet, nor UTF-8 text: write jsonl in UTF-8") from error
        first = start[: error.start].decode("utf-8").splitlines()[0]
    kind = "CSV" if first.count(",") >= 1 else "tab-separated" if "\t" in first else "no JSON"
    raise InputError(
        f"{path} is neither jsonl nor parquet (its first line is {kind}: {first[:60]!r}): write one JSON object for "
        "each line, a JSON array, or parquet"
    )
