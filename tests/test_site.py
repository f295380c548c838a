"""The documentation: it builds as a site, and the Python reference says what calls take, return and raise."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import griffe
import pytest

import vprm
import vprm_runtime

ROOT = Path(__file__).parent.parent
CLIENT = ("Client", "RemoteSession")


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
    client = griffe.load("vprm_client.client", search_paths=[str(ROOT / "runtime")])
    places = [(name, package) for name in vprm_runtime.__all__] + [(name, client) for name in CLIENT]
    for name, place in places:
        found = place[name]
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


@pytest.mark.parametrize("name", CLIENT)
def test_the_asynchronous_client_takes_what_the_blocking_one_does(name: str) -> None:
    client = griffe.load("vprm_client.client", search_paths=[str(ROOT / "runtime")])[name]
    twin = griffe.load("vprm_client.asynchronous", search_paths=[str(ROOT / "runtime")])[f"Async{name}"]
    for method in client.functions.values():
        if not method.name.startswith("_"):
            theirs = twin.functions[method.name].parameters
            assert [(p.name, p.default, p.kind) for p in method.parameters] == [
                (p.name, p.default, p.kind) for p in theirs
            ]


OWNERS = (vprm.StepScorer, vprm.Session, vprm.Client, vprm.AsyncClient)
WITH_MAX_STEPS = [vprm.select_best_response] + [
    method
    for owner in OWNERS
    for name, method in inspect.getmembers(owner, inspect.isfunction)
    if not name.startswith("_") and "max_steps" in inspect.signature(method).parameters
]


@pytest.mark.parametrize("function", WITH_MAX_STEPS, ids=lambda function: function.__qualname__)
def test_the_default_of_max_steps_is_said(function: Callable[..., object]) -> None:
    """12 as on the model card for ranking, no limit everywhere else."""
    said = re.search(r"max_steps.{0,120}?(12|no limit)", function.__doc__ or "", re.DOTALL)
    assert said is not None
    assert said[1] == ("12" if function.__name__ == "select_best_response" else "no limit")


def test_help_says_the_default_of_max_steps() -> None:
    options = re.findall(r"^  --max-steps N .*", (ROOT / "docs" / "cli.md").read_text("utf-8"), re.M)
    assert [re.search(r"\(default: (.*)\)", option)[1] for option in options] == ["12", "no limit"]  # type: ignore[index]
