"""Environments that hold what one extra asks for and nothing else, without installing anything.

The packages are links into the environment that runs the tests: the closure of the extra's requirements, found as pip
finds it (markers evaluated, extras of requirements followed). The project itself comes from its built wheel.
"""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements_of(metadata: Distribution, extras: frozenset[str]) -> list[Requirement]:
    """What a distribution asks for with these extras, on this machine."""
    found = []
    for text in metadata.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            found.append(requirement)
    return found


def closure(wheel: Distribution, extra: str) -> set[str]:
    """Canonical names of the distributions that installing the wheel with `extra` brings, as far as they are here."""
    names: set[str] = set()
    visited: set[tuple[str, frozenset[str]]] = set()
    todo: list[tuple[Distribution, frozenset[str]]] = [(wheel, frozenset({extra} if extra else ()))]
    while todo:
        metadata, extras = todo.pop()
        for requirement in requirements_of(metadata, extras):
            name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if (name, wanted) in visited:
                continue
            visited.add((name, wanted))
            if name == "vprm":
                todo.append((wheel, wanted))
                continue
            try:
                todo.append((distribution(name), wanted))
            except PackageNotFoundError:  # CUDA's libraries, on a machine without a device
                continue
            names.add(name)
    return names


def lean_environment(wheel: Path, extra: str, directory: Path) -> Path:
    """A virtual environment in `directory` as `pip install 'WHEEL[extra]'` makes it; its Python."""
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (info,) = site.glob("vprm-*.dist-info")
    for name in closure(Distribution.at(info), extra):
        _link(distribution(name), site)
    return python


def _link(found: Distribution, site: Path) -> None:
    """Link a distribution's packages, modules and metadata into `site`; those that share a folder, file by file."""
    for file in found.files or ():
        if file.parts[0] == ".." or "__pycache__" in file.parts:
            continue
        target = site / file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(found.locate_file(file))).resolve())


if __name__ == "__main__":  # by hand: python -m tests.support.extras WHEEL EXTRA DIRECTORY
    print(lean_environment(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
