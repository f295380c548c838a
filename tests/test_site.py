"""The documentation: it builds as a site, and the Python reference says what calls take, return and raise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

import vprm_runtime

ROOT = Path(__file__).parent.parent


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "StepScorer" in (tmp_path / "python.html").read_text("utf-8")


def public_functions() -> Iterator[tuple[str, griffe.Function]]:
    """Functions and methods that users call, by their dotted names."""
    package = griffe.load("vprm_runtime", search_paths=[str(ROOT / "runtime")])
    for name in vprm_runtime.__all__:
        found = package[name]
        found = found.final_target if isinstance(found, griffe.Alias) else found
        if isinstance(found, griffe.Function):
            yield name, found
        elif isinstance(found, griffe.Class):
            for method in found.functions.values():
                if not method.name.startswith("_"):
                    yield f"{name}.{method.name}", method


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_takes_returns_and_raises(name: str) -> None:
    function = FUNCTIONS[name]
    assert function.docstring is not None
    sections = {section.kind: section.value for section in function.docstring.parse("google")}
    documented = {entry.name for entry in sections.get(griffe.DocstringSectionKind.parameters, [])}
    taken = {parameter.name for parameter in function.parameters} - {"self", "cls"}
    assert documented == taken
    if re.search(r"^\s+raise \w+Error", function.source, re.M):
        assert griffe.DocstringSectionKind.raises in sections
    if str(function.returns) != "None" and griffe.DocstringSectionKind.yields not in sections:
        assert griffe.DocstringSectionKind.returns in sections or len(taken) == 0
