"""Whether what a run reads is still what it read before: the lines of its input, the images of rows that are written.

A run is described by its input's content. What changes under a run would get scores under the wrong description, so it
ends the run instead: nothing is written from changed bytes.
"""

import hashlib
import json
import os
import threading
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vprm_runtime.datasets.line_log import LineLog
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.files import open_regular
from vprm_runtime.images.load import NamedImage, read_image_file

_DIGEST_BYTES = 16


class ChangedInputError(InputError):
    """A file changed while its rows were scored, or an image since. It ends a run; no row carries it."""


class LineHashes:
    """8 bytes for each line of a file: enough to see that a line read again is another one."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def append(self, line: bytes) -> None:
        """Take the next line."""
        self._hashes.append(_line_hash(line))

    def check(self, number: int, line: bytes, path: Path) -> None:
        """Raise ChangedInputError unless this is the line that was taken as `number`."""
        if self._hashes[number] != _line_hash(line):
            raise ChangedInputError(_changed(path))


@dataclass(frozen=True)
class FileState:
    """What the file system says of a file; it changes with every write, and if another file takes its place."""

    path: Path
    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    @staticmethod
    def of(path: Path) -> "FileState":
        """The present state. Raises OSError if there is no file."""
        found = os.stat(path)
        return FileState(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """Raise ChangedInputError unless the file is as it was."""
        try:
            is_same = FileState.of(self.path) == self
        except OSError:
            is_same = False
        if not is_same:
            raise ChangedInputError(_changed(self.path))


def content_hash(path: Path) -> str:
    """sha256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ImageLog:
    """Which images the rows of an output were scored with: a file of lines beside it, one for each image.

    An image that is replaced while the rows that name it are scored, or between two runs of one output, is noticed.
    Threads may share it.
    """

    def __init__(self, path: Path, is_new: bool) -> None:
        """Open or create the log and look at every image in it again; if `is_new`, no row is written: start anew.

        Raises InputError if an image is another one now, or the log cannot be read or written.
        """
        self._lock = threading.Lock()
        self._known: dict[bytes, bytes] = {}  # path -> content, as hashes
        self._seen: dict[bytes, dict[str, Any]] = {}  # read, but no row of theirs is written yet
        self._log = LineLog(path)
        try:
            self._log.cut_partial_line(all_lines=is_new)
            for number, line in enumerate(self._log.lines(), 1):
                self._take(_entry(line, number, path))
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()

    def read(self, path: Path) -> NamedImage:
        """An image file's content. Raises ChangedInputError if rows were written that name it with another content."""
        image = read_image_file(path)
        content = _hash(image.content)
        key = _hash(os.fsencode(path))
        with self._lock:
            if self._known.get(key, content) != content:
                raise ChangedInputError(_replaced(path))
            if key not in self._known:
                modified = os.stat(path).st_mtime_ns
                self._seen[key] = {"image": str(path), "modified_ns": modified, "hash": content.hex()}
        return image

    def keep(self, paths: Iterable[Path]) -> None:
        """Note the images of a row that is about to be written."""
        with self._lock:
            for entry in self._entries(paths):
                self._log.append(json.dumps(entry).encode())
                self._known[_hash(os.fsencode(entry["image"]))] = bytes.fromhex(entry["hash"])

    def drop(self, paths: Iterable[Path]) -> None:
        """Forget the images of a row that was not scored: they may be mended."""
        with self._lock:
            list(self._entries(paths))

    def _entries(self, paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
        for path in paths:
            entry = self._seen.pop(_hash(os.fsencode(path)), None)
            if entry is not None:
                yield entry

    def _take(self, entry: dict[str, Any]) -> None:
        path, content = Path(entry["image"]), bytes.fromhex(entry["hash"])
        try:
            is_same = os.stat(path).st_mtime_ns == entry["modified_ns"] or _hash_of_file(path) == content
        except (OSError, ValueError):
            is_same = True  # gone: rows that still need it will say so
        if not is_same:
            raise ChangedInputError(_replaced(path))
        self._known[_hash(os.fsencode(path))] = content


def _entry(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        is_typed = isinstance(entry["image"], str) and isinstance(entry["modified_ns"], int)
        if is_typed and len(bytes.fromhex(entry["hash"])) == _DIGEST_BYTES:
            return dict(entry)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"line {number} of {path} is damaged: remove it and the output beside it, and start again")


def _hash_of_file(path: Path) -> bytes:
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _line_hash(line: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "little")


def _changed(path: Path) -> str:
    return (
        f"{quoted(path)} changed while its rows were scored; what is written is from before: "
        "keep the file as it is, choose another output, and start again"
    )


def _replaced(path: Path) -> str:
    return (
        f"the image {quoted(path)} is not the one that rows of this output were scored with: put it back, or choose "
        "another output to start again"
    )
