"""What JSON can say and a row cannot: checked on every way in, whether a file, a worker or a server reads the row."""

import json
import re

MAX_DEPTH = 64  # of nested lists and objects in a row: far above any data set's, far below Python's own limit
# an escape, a half in UTF-8 (json.loads lets it pass), or bytes that may be UTF-16 or UTF-32
_MAY_BE_HALF = re.compile(rb"\\[uU][dD]|\xed[\xa0-\xbf]|\0")


def fault_of(record: object, text: bytes) -> str | None:
    """Why `record`, parsed from `text`, cannot be taken: what follows "it" in a message, or None if it can."""
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _depth(record) > MAX_DEPTH:
        return f"is nested more than {MAX_DEPTH} levels deep: flatten it"
    if _MAY_BE_HALF.search(text) and _has_half_character(record):
        return "has half a surrogate pair: write such characters whole"
    return None


def _depth(record: object) -> int:
    """How deeply lists and objects are nested."""
    depth, level = 0, [record]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return depth


def _has_half_character(record: object) -> bool:
    """Whether a text holds half of a surrogate pair, as from a lone escape in JSON: it cannot be encoded."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
