"""Other ONNX Runtimes than the installed one: $VPRM_ORT_LIBRARIES has the paths of their libraries."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cpp.conftest import Runner, built
from tests.cpp.test_scores import RESPONSES, pixels
from tests.cpp.test_units import run_units

from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import StepScorer

LIBRARIES = [Path(path) for path in os.environ.get("VPRM_ORT_LIBRARIES", "").split(os.pathsep) if path]
TOLERANCE = 1e-6  # versions order float32 sums differently; quantised products amplify nothing at the demo's depth
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="needs other versions of ONNX Runtime: run with  make versions")


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
@pytest.mark.parametrize("precision", ["fp32", "int8", "w4"])
def test_scores(library: Path, precision: str, as_image: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_bundle(checkpoint_dir(), bundle, ExportOptions(precision))  # type: ignore[arg-type]
    runner = Runner(built("release") / "tests/vprm_runner", VPRM_ORT_LIBRARY=str(library))
    version = library.name.removeprefix("libonnxruntime.so.")
    assert runner("open", bundle=str(bundle)).startswith(f"ONNX Runtime {version}, CPU")
    image = pixels(300, 200)
    found = runner("score", question="How many?", images=[as_image(image)], responses=RESPONSES)
    expected = StepScorer.open(bundle, "cpu", threads=1).score(image, "How many?", RESPONSES)
    for mine, theirs in zip(found["candidates"], expected.candidates, strict=True):
        assert mine["error"] == theirs.error
        assert [step["score"] for step in mine["steps"]] == pytest.approx(list(theirs.step_scores), abs=TOLERANCE)
    assert runner.close() == 0


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_units(library: Path, demo_bundle: Path) -> None:
    """A host that has this version itself, among others."""
    run_units(built("release"), demo_bundle, VPRM_ORT_LIBRARY=str(library))
