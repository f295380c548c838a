"""What a user should know of rows beside their errors: keys that are not read, ids that repeat.

A file of rows says so when it is opened (`RowNotes.lines`), rows that come one at a time as soon as it is known
(`LiveNotes`), whoever reads them.
"""

import difflib
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Protocol

from vprm_runtime.datasets.row import RowId
from vprm_runtime.datasets.row_keys import KNOWN_KEYS

_MOST_NAMES = 12
_MOST_IDS = 1 << 20  # that a stream without an end remembers


class Noted(Protocol):
    """What a row has that nothing is made of, and what else a user should know of it."""

    @property
    def unread(self) -> tuple[str, ...]:
        """Keys that nothing is read from."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences."""
        ...


class RowNotes:
    """Notes of several rows."""

    def __init__(self) -> None:
        self._unread: Counter[str] = Counter()
        self._remarks: Counter[str] = Counter()
        self._ids: set[bytes] = set()
        self._repeated = 0

    def add(self, row: Noted) -> None:
        """Take note of what a row has."""
        self._unread.update(row.unread)
        self._remarks.update(row.remarks)

    def add_id(self, row_id: RowId) -> None:
        """Take note of an id alone."""
        key = _key(row_id)
        self._repeated += key in self._ids
        self._ids.add(key)

    def add_unread(self, keys: Iterable[str]) -> None:
        """Take note of keys that nothing is read from."""
        self._unread.update(keys)

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each kind of note; none if there is nothing to say."""
        notes = []
        if self._unread:
            names = [shown_key(name) for name, _ in self._unread.most_common(_MOST_NAMES)]
            more = f" and {len(self._unread) - len(names)} more" if len(self._unread) > len(names) else ""
            notes.append(f"keys that are not read: {', '.join(names)}{more}")
        for remark, count in self._remarks.most_common(_MOST_NAMES):
            notes.append(remark if count == 1 else f"{remark} ({count} rows)")
        if self._repeated:
            notes.append(f"{self._repeated} rows have an id that an earlier row has: tell them apart by `row`")
        return tuple(notes)


class LiveNotes:
    """Says each note once, at the first row that it is about."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()
        self._ids: set[bytes] | None = set()

    def add(self, row: Noted, where: str) -> None:
        """Say what is new in a row; `where` names it."""
        for key in row.unread:
            self.once(f"{where}: {shown_key(key)} is not read", key)
        for remark in row.remarks:
            self.once(f"{where}: {remark}", remark)

    def add_id(self, row_id: RowId, where: str) -> None:
        """Say that an id repeats, the first time that one does."""
        if self._ids is None:
            return
        key = _key(row_id)
        if key in self._ids:
            self._ids = None
            self._say(f"{where} has an id that an earlier row has: tell rows apart by `row`")
        elif len(self._ids) < _MOST_IDS:
            self._ids.add(key)

    def once(self, line: str, topic: str) -> None:
        """Say a line, unless another one of its topic was said."""
        if topic not in self._said and len(self._said) < 1000:
            self._said.add(topic)
            self._say(line)


def shown_key(name: str) -> str:
    """A key that is not read, with what may have been meant."""
    if name in KNOWN_KEYS:
        return f"{name} (another key is read instead)"
    close = difflib.get_close_matches(name.lower(), [*KNOWN_KEYS, "image", "images"], 1, 0.75)
    shown = name if len(name) <= 40 else name[:39] + "…"
    return f"{shown} (did you mean {close[0]}?)" if close else shown


def _key(row_id: RowId) -> bytes:
    return hashlib.blake2b(json.dumps(row_id).encode(), digest_size=8).digest()


@lru_cache(maxsize=1024)
def warn_once(path: str, note: str) -> None:
    """A command opens its rows several times; a note is logged the first time."""
    logging.getLogger("vprm").warning("%s: %s", path, note)
