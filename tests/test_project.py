"""What users see of the project from outside: public names, command-line help in the docs, links, wheel contents."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vprm_runtime
from vprm_runtime.cli.main import build_parser

ROOT = Path(__file__).parent.parent
HELP = ROOT / "docs" / "cli.md"


def test_public_names_are_these() -> None:
    assert sorted(vprm_runtime.__all__) == [
        "Aggregate",
        "Bundle",
        "BundleError",
        "CandidateScore",
        "CheckpointError",
        "EngineError",
        "InputError",
        "MissingExtraError",
        "ScoreOptions",
        "ScoreResult",
        "ServerError",
        "Session",
        "StepScore",
        "StepScorer",
        "UnsupportedError",
        "VprmError",
        "select_best_response",
    ]


def help_pages(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Help texts of a parser and all parsers below it, by command."""
    pages = {parser.prog: parser.format_help()}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in sorted(action.choices):
                pages |= help_pages(action.choices[name])
    return pages


def test_the_documented_help_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the tests with UPDATE_DOCS=1 to write it anew."""
    monkeypatch.setenv("COLUMNS", "100")
    sections = [f"## {name}\n\n```\n{text}```\n" for name, text in help_pages(build_parser()).items()]
    codes = (
        "Exit codes: 0 done (rows may carry errors: the last line counts them), 1 a check failed, 2 usage or input,\n"
        "3 rows were read and not one could be scored, 130 interrupted."
    )
    head = f"# Command line\n\n{codes}\n\n"
    text = head + "\n".join(sections)
    if os.environ.get("UPDATE_DOCS"):
        HELP.write_text(text, "utf-8")
    assert HELP.read_text("utf-8") == text


def anchors(markdown: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", markdown, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_between_documents_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", text):
        if "://" not in target:
            path = (ROOT / page).parent / target
            assert path.exists(), f"{page} links to {target}"
            assert not anchor or anchor in anchors(path.read_text("utf-8")), f"{page} links to {target}#{anchor}"


def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]}
    rooms = {
        "runtime",
        "ray",
        "report",
        "serving",
        "client",
        "export",
        "compile",
        "calibration",
        "benchmarks",
        "optimize",
        "demo",
    }
    assert tops == {"vprm", *(f"vprm_{room}" for room in rooms)}
    for needed in (
        "vprm_demo/checkpoint/config.json",
        "vprm_demo/checkpoint/tokenizer.model",
        "vprm_demo/checkpoint/model.safetensors.index.json",
        "vprm_runtime/py.typed",
    ):
        assert needed in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".c", ".h"))]
    assert ("vprm_runtime/native/libvprm_native.so" in names) == ("py3-none-any" not in wheel.name)


def test_no_source_file_is_over_400_lines() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    kinds = {".py", ".c", ".h", ".cpp", ".hpp", ".js", ".css", ".html", ".j2"}
    sources = [ROOT / name for name in listed if Path(name).suffix in kinds]
    assert len(sources) > 300
    lines = {path: path.read_bytes().count(b"\n") for path in sources if path.exists()}
    assert {str(path): count for path, count in lines.items() if count > 400} == {}
