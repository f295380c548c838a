"""JSON from strangers: one value, no duplicate keys, no NaN, nothing that raises anything but ValueError."""

import json
from typing import Any, NoReturn

from vprm_runtime.errors import quoted


def loads(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError saying why not.

    Refused beside what JSON forbids: duplicate keys (of which parsers take different ones), NaN and Infinity, nesting
    or numbers too long for Python's parser, text that is not UTF-8, and halves of surrogate pairs.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        document = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it has half a surrogate pair") from error
    return document


class RepeatedKeyError(ValueError):
    """An object has a key twice."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its keys and values, for `object_pairs_hook`. Raises RepeatedKeyError naming a key."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKeyError(f"the key {quoted(key)!r} is there twice")
            seen.add(key)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
