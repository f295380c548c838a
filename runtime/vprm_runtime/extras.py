"""Which of the package's optional dependencies are installed, by extra; and how they are imported."""

import importlib
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from vprm_runtime.errors import EngineError, MissingExtraError, quoted

_DISTRIBUTION = "vprm"
DEVELOPMENT = frozenset({"dev", "demo-train", "bench", "reference"})  # extras that no command of users needs
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^]]*)])?[^;]*;.*extra == ['\"](?P<extra>[^'\"]+)['\"]"
)


def import_optional(module: str, need: str, extra: str) -> Any:
    """The module of an optional library.

    Raises MissingExtraError if it is not installed, EngineError if it is installed and cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(need, extra) from error
    except ImportError as error:
        raise EngineError(
            f"{module.split('.')[0]} is installed but cannot be loaded for {need} ({quoted(error)}): free memory if it "
            "is short, or install it again"
        ) from error


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def missing_distributions(extra: str) -> list[str]:
    """Names of the distributions that `extra` asks for and that are not installed, sorted.

    Versions are not compared: pip does that. Raises ValueError if the package has no such extra.
    """
    return sorted(name for name in _distributions(extra) if installed_version(name) is None)


def _distributions(extra: str) -> set[str]:
    """Names of all distributions that an extra asks for. Raises ValueError if the package has no such extra."""
    found = [match for text in requires(_DISTRIBUTION) or () if (match := _REQUIREMENT.match(text))]
    wanted = [match for match in found if match["extra"] == extra]
    if not wanted:
        raise ValueError(f"{_DISTRIBUTION} has no extra {extra!r}")
    names: set[str] = set()
    for match in wanted:
        if match["name"] == _DISTRIBUTION:
            for other in match["extras"].split(","):
                names |= _distributions(other.strip())
        else:
            names.add(match["name"])
    return names


def missing_extras(extras: str) -> list[str]:
    """Those of the comma-separated `extras` that are not installed whole, in order."""
    return [extra for extra in extras.split(",") if extra and missing_distributions(extra)]


def extras_to_install(module: str, extras: str) -> list[str]:
    """Those of the comma-separated `extras` that are not installed whole, and one that brings `module` if none does."""
    missing = missing_extras(extras)
    name = module.replace("_", "-")
    if any(name in (one.lower().replace("_", "-") for one in missing_distributions(extra)) for extra in missing):
        return missing
    return list(dict.fromkeys([*missing, *extras_with(module)]))


def extras_with(module: str) -> list[str]:
    """The smallest extra that brings a module and is not installed whole, for users if one is; empty if none does."""
    name = module.replace("_", "-")
    found = [match for text in requires(_DISTRIBUTION) or () if (match := _REQUIREMENT.match(text))]
    owners = {match["extra"] for match in found if match["name"].lower().replace("_", "-") == name}
    lacking = [extra for extra in sorted(owners) if missing_distributions(extra)]
    return sorted(lacking, key=lambda extra: (extra in DEVELOPMENT, len(_distributions(extra))))[:1]
