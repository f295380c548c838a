"""A JSON object as a frozen dataclass: every key known, every value of the declared type."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vprm_runtime.errors import quoted

T = TypeVar("T")


def parsed(kind: type[T], value: object, where: str, optional: frozenset[str] = frozenset()) -> T:
    """A dataclass of the values of a JSON object, recursively.

    Keys in `optional` may be missing, at every depth. Raises ValueError naming what is not as the dataclass has it.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} should be an object, not {type(value).__name__}")
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    names = [name for name in known if name in value or name not in optional]
    if set(value) != set(names):
        odd = quoted(sorted(set(value) ^ set(names)))
        raise ValueError(f"{where} has missing or unknown keys {odd}")
    return kind(**{name: _field(hints[name], value[name], f"{where}: {name}", optional) for name in names})


def _field(hint: Any, value: object, where: str, optional: frozenset[str]) -> object:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return parsed(hint, value, where, optional)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_field(arguments[0], item, where, optional) for item in value)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _field(arguments[1], item, f"{where}: {quoted(key)}", optional) for key, item in value.items()}
    if origin is Literal:
        accepted = value in arguments
    elif origin in (Union, UnionType):
        for argument in arguments:
            if is_dataclass(argument) and isinstance(value, Mapping):
                return parsed(argument, value, where, optional)  # type: ignore[arg-type]
        accepted = any(_is_plain(argument, value) for argument in arguments)
    else:
        accepted = _is_plain(hint, value)
    if not accepted:
        raise ValueError(f"{where} is {quoted(repr(value))}, expected {hint}")
    return float(value) if hint is float else value  # type: ignore[arg-type]


def _is_plain(hint: Any, value: object) -> bool:
    if hint is float:
        return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 53)
    if get_origin(hint) is not None:  # a list or an object was expected, and it is none
        return False
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
