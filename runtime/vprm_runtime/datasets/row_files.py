"""A file of rows as plain jsonl: UTF-8 as it is; compressed, UTF-16 and JSON-array files by way of a temporary file."""

import codecs
import gzip
import importlib
import json
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from vprm_runtime.errors import InputError, MissingExtraError

PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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
_WRAPPERS = ("data", "rows", "examples", "instances")


class RowFile:
    """A file of lines that are rows: the user's own, or a temporary one that goes with this object.

    `path` is the file of lines, rows begin at byte `begin`; with `is_array`, each line is an element of a JSON array.
    """

    def __init__(self, path: Path) -> None:
        """Look into `path`. Raises InputError saying what it is if it holds no rows, MissingExtraError for zstd."""
        self.path, self.begin, self.is_array = path, 0, False
        start = self._start()
        if start.startswith((_GZIP_MAGIC, _ZSTD_MAGIC)):
            start = self._replace(partial(_decompress, is_gzip=start.startswith(_GZIP_MAGIC)))
        if start.startswith(_UTF16):
            start = self._replace(_decode_utf16)
        self.begin = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        text = start[self.begin :].lstrip()
        if text.startswith(b"[") or _is_wrapped(text):
            self._replace(_split_array)
            self.is_array, self.begin = True, 0
        elif not text.startswith(b"{"):
            _refuse(path, start)

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


def _decompress(path: Path, target: BinaryIO, is_gzip: bool) -> None:
    try:
        if is_gzip:
            with gzip.open(path, "rb") as stream:
                shutil.copyfileobj(stream, target)
        else:
            arrow = _import_arrow()
            with arrow.OSFile(str(path)) as file, arrow.CompressedInputStream(file, "zstd") as stream:
                shutil.copyfileobj(stream, target)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be decompressed ({error}): download or write it again") from error


def _import_arrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingExtraError("reading zst files", "data") from error


def _decode_utf16(path: Path, target: BinaryIO) -> None:
    try:
        with path.open("r", encoding="utf-16", newline="") as file:
            for text in file:
                target.write(text.encode("utf-8"))
    except UnicodeError as error:
        raise InputError(f"{path} is damaged UTF-16 ({error}): write it as UTF-8") from error


def _is_wrapped(text: bytes) -> bool:
    """Whether a file begins as one object that holds the rows in a list, over several lines or none."""
    key = text[1:].lstrip()
    return text.startswith(b"{") and any(
        key.startswith(f'"{name}"'.encode()) and key[len(name) + 2 :].lstrip(b" \t\r\n:").startswith(b"[")
        for name in _WRAPPERS
    )


def _split_array(path: Path, target: BinaryIO) -> None:
    """The elements of a JSON array, one for each line. The whole array is in memory while this runs."""
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} begins as a JSON array but is not whole ({error}): write it again") from error
    if isinstance(document, dict):
        document = next((document[name] for name in _WRAPPERS if isinstance(document.get(name), list)), [])
    if not document:
        raise InputError(f"{path} is an empty JSON array: there are no rows")
    for element in document:
        target.write(json.dumps(element).encode() + b"\n")


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
