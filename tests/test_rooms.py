"""Dependencies point one way: each room imports what design allows, and scoring works without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"vprm_runtime", "vprm_export", "vprm_calibration", "vprm_benchmarks", "vprm_demo"}
HEAVY = {"torch", "transformers"}
BANNED = {
    "runtime/vprm_runtime": (ROOMS - {"vprm_runtime"}) | HEAVY | {"onnx", "onnx_ir"},
    "export/vprm_export": {"vprm_calibration", "vprm_benchmarks"} | HEAVY,
    "calibration/vprm_calibration": {"vprm_benchmarks"} | HEAVY,
    "demo/vprm_demo": ROOMS - {"vprm_demo"} | {"transformers", "onnx", "onnx_ir"},
}


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", BANNED)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        assert not imported_packages(file) & BANNED[room], file


def test_torch_in_the_demo_is_for_training_only() -> None:
    for file in (ROOT / "demo/vprm_demo").rglob("*.py"):
        if "training" not in file.parts:
            assert "torch" not in imported_packages(file), file


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
