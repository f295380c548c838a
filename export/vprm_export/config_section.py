"""One object of config.json with checked access: nothing that decides a score is defaulted in silence."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vprm_export.readings import Readings
from vprm_runtime.errors import CheckpointError, UnsupportedError, quoted

MAX_SIZE = 1 << 27  # of any dimension or count that a model can have
_TINIEST, _LARGEST = 1.2e-38, 3.4e38  # normal numbers of float32


@dataclass(frozen=True)
class Section:
    """An object of config.json, its name for messages (file and key), and where to note what was read or assumed.

    Methods take a key's default only if the weights' names and shapes contradict a wrong one, or if the model's
    own class has it; a default that was taken is noted. Without a default an absent key is refused by name.
    """

    values: Mapping[str, Any]
    name: str
    readings: Readings
    prefix: str = ""

    def section(self, key: str) -> "Section":
        """The object under a key. Raises CheckpointError if there is none."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.name} has no object {key!r}: is this an InternVL-style checkpoint?")
        return Section(value, f"{self.name}: {key}", self.readings, f"{self.prefix}{key}.")

    def optional(self, key: str) -> Any:
        """The value of a key, or None."""
        return self.values.get(key)

    def given(self, key: str, default: Any) -> Any:
        """The value of a key as it is, or the default of the model's class, which is noted."""
        return self._get(key, default)

    def integer(self, key: str, default: int | None = None, minimum: int = 1, maximum: int = MAX_SIZE) -> int:
        """An integer from `minimum` to `maximum`."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            expected = f"an integer of at least {minimum} and at most {maximum:,}"
            raise CheckpointError(f"{self.name}: {key} is {quoted(repr(value))}, expected {expected}")
        return value

    def number(self, key: str, default: float | None = None, maximum: float = _LARGEST) -> float:
        """A number above 0 and up to `maximum`, of a size that float32 can hold."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not _TINIEST < value <= maximum:
            raise CheckpointError(
                f"{self.name}: {key} is {quoted(repr(value))}, expected a number from 0 to {maximum:g}"
            )
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {quoted(repr(value))}, expected true or false")
        return value

    def one_of(self, key: str, supported: Sequence[Any], default: Any = None) -> Any:
        """One of the supported values. Raises UnsupportedError naming them."""
        value = self._get(key, default)
        if value not in supported or isinstance(value, bool) != isinstance(supported[0], bool):
            found = quoted(repr(value))
            raise UnsupportedError(f"{self.name}: {key} {found} is not supported; supported: {list(supported)}")
        return value

    def off(self, *keys: str) -> None:
        """Refuse features that change scores and are not supported; absent, null, false, 0 and empty are off."""
        for key in keys:
            if self.values.get(key):
                raise UnsupportedError(
                    f"{self.name}: {key} {quoted(repr(self.values[key]))} is not supported: only without it"
                )

    def one_of_list(self, key: str, supported: Sequence[str]) -> None:
        """A list that has at least one of the supported values."""
        values = self._get(key, None)
        if not isinstance(values, list) or not {str(value) for value in values} & set(supported):
            raise UnsupportedError(
                f"{self.name}: {key} {quoted(repr(values))} is not supported; supported: {list(supported)}"
            )

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            names = [name for name, given in self.values.items() if isinstance(name, str) and given is not None]
            close = difflib.get_close_matches(key, names, 1, 0.6)
            hint = f" (it has {close[0]!r})" if close else ""
            lacks = f"has null for {key!r}" if key in self.values else f"has no {key!r}"
            raise CheckpointError(
                f"{self.name} {lacks}{hint}, which decides scores: complete it from the model's own config.json"
            )
        self.readings.assume(f"{self.prefix}{key}", default, "absent: default of the model's class")
        return default
