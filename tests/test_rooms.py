"""Dependencies point one way: each room imports what design allows, and scoring works without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers"}
GRAPHS = {"onnx", "onnx_ir"}
ALLOWED = {  # what each room may import of the others
    "runtime/vprm": {"vprm_runtime", "vprm_client"},
    "runtime/vprm_runtime": set(),
    "runtime/vprm_ray": {"vprm_runtime"},
    "runtime/vprm_report": {"vprm_runtime"},
    "runtime/vprm_serving": {"vprm_runtime", "vprm_report"},
    "runtime/vprm_client": {"vprm_runtime"},
    "export/vprm_export": {"vprm_runtime", "vprm_demo"},
    "export/vprm_compile": {"vprm_runtime"},
    "calibration/vprm_calibration": {"vprm_runtime", "vprm_export", "vprm_demo"},
    "benchmarks/vprm_benchmarks": {
        "vprm_runtime",
        "vprm_report",
        "vprm_serving",
        "vprm_client",
        "vprm_export",
        "vprm_compile",
        "vprm_calibration",
        "vprm_demo",
    },
    "benchmarks/vprm_optimize": {
        "vprm_runtime",
        "vprm_report",
        "vprm_export",
        "vprm_compile",
        "vprm_calibration",
        "vprm_benchmarks",
        "vprm_demo",
    },
    "demo/vprm_demo": {"vprm_runtime"},
    "demo/vprm_demo_training": {"vprm_demo"},
}
BANNED_LIBRARIES = {
    "runtime/vprm": HEAVY | GRAPHS,
    "runtime/vprm_runtime": HEAVY | GRAPHS,
    "runtime/vprm_ray": HEAVY | GRAPHS,
    "runtime/vprm_report": HEAVY | GRAPHS,
    "runtime/vprm_serving": HEAVY | GRAPHS,
    "runtime/vprm_client": HEAVY | GRAPHS | {"starlette", "uvicorn", "prometheus_client", "onnxruntime"},
    "export/vprm_export": HEAVY,
    "export/vprm_compile": HEAVY,
    "calibration/vprm_calibration": HEAVY,
    "benchmarks/vprm_benchmarks": set(),
    "benchmarks/vprm_optimize": HEAVY,
    "demo/vprm_demo": HEAVY | GRAPHS,
    "demo/vprm_demo_training": {"transformers"} | GRAPHS,
}
ROOMS = {room.split("/")[1] for room in ALLOWED}


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    banned = (ROOMS - {room.split("/")[1]} - ALLOWED[room]) | BANNED_LIBRARIES[room]
    for file in files:
        assert not imported_packages(file) & banned, file


def test_the_architecture_page_lists_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for package in ROOMS:
        assert re.search(rf"^\| [^|]*\| `{package}` \|", page, re.M), f"{package} is not in the table of rooms"


def test_every_package_is_a_room_that_is_checked() -> None:
    packages = {path.parent for path in ROOT.glob("*/vprm*/__init__.py")}
    assert {str(package.relative_to(ROOT)) for package in packages} == set(ALLOWED)


SCORE_WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "onnx", "onnx_ir", "vprm_export", "vprm_benchmarks", "vprm_calibration"):
    sys.modules[name] = None
import numpy as np
from vprm_runtime import StepScorer
result = StepScorer.open(sys.argv[1]).score(np.zeros((30, 40, 3), np.uint8), "How many?", ["One.\\n\\nTwo.", "Three."])
assert [c.error for c in result.candidates] == [None, None], result
assert not {"onnx", "torch", "transformers"} & {name for name, module in sys.modules.items() if module}
"""


def test_scoring_needs_neither_torch_nor_onnx(demo_bundle: Path) -> None:
    subprocess.run([sys.executable, "-c", SCORE_WITHOUT_TORCH, str(demo_bundle)], check=True)


def test_importing_the_runtime_loads_no_engine() -> None:
    code = "import sys, vprm_runtime; print([m for m in ('onnxruntime', 'rich', 'torch', 'onnx') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == "[]"


def imported_modules(path: Path) -> set[str]:
    """Modules of our rooms that a module imports when it is imported itself (not inside functions)."""
    found: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(path.read_text("utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo.extend(ast.iter_child_nodes(node))
    return found


def test_no_module_imports_itself_through_others() -> None:
    """Imports for type checking count too: a circle of types is a circle of ideas."""
    modules: dict[str, Path] = {}
    for room in ALLOWED:
        for file in (ROOT / room).rglob("*.py"):
            parts = file.relative_to(ROOT / room.split("/")[0]).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    arrows = {}
    for name, file in modules.items():
        arrows[name] = {
            other
            for other in imported_modules(file) & set(modules) - {name}
            if not (name.startswith(f"{other}.") and modules[other].name == "__init__.py")  # it gathers its own modules
        }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(arrows[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(arrows):
        visit(name, ())
