"""Other ONNX Runtimes than the installed one: $VPRM_ORT_LIBRARIES has the paths of their libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cpp.conftest import Runner, built
from tests.cpp.test_scores import RESPONSES, TOLERANCE, pixels
from tests.cpp.test_units import run_units

from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import StepScorer

LIBRARIES = [Path(path) for path in os.environ.get("VPRM_ORT_LIBRARIES", "").split(os.pathsep) if path]
ACROSS_VERSIONS = 1e-6  # float32 sums in another order; int8 rounds what differs, so it is held to its own version only
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
    scores = [step["score"] for candidate in found["candidates"] for step in candidate["steps"]]
    assert scores == pytest.approx(_python_scores(bundle, library, tmp_path / "image.npy"), abs=TOLERANCE, rel=0)
    if precision == "fp32":
        expected = StepScorer.open(bundle, "cpu", threads=1).score(image, "How many?", RESPONSES)
        assert scores == pytest.approx([score for one in expected for score in one.step_scores], abs=ACROSS_VERSIONS)
    assert runner.close() == 0


_SCRIPT = """
import json, sys
import numpy, onnxruntime
from vprm_runtime import StepScorer
bundle, image, responses, library = sys.argv[1:]
assert library.startswith(onnxruntime.__path__[0]), onnxruntime.__path__
result = StepScorer.open(bundle, "cpu", threads=1).score(numpy.load(image), "How many?", json.loads(responses))
print(json.dumps([score for one in result for score in one.step_scores]))
"""


def _python_scores(bundle: Path, library: Path, image: Path) -> list[float]:
    """Step scores of the Python package with the ONNX Runtime package that the library is part of."""
    np.save(image, pixels(300, 200))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(bundle), str(image), json.dumps(RESPONSES), str(library)],
        env={**os.environ, "PYTHONPATH": str(library.parents[2])}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return [float(score) for score in json.loads(done.stdout)]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_units(library: Path, demo_bundle: Path) -> None:
    """A host that has this version itself, among others."""
    run_units(built("release"), demo_bundle, VPRM_ORT_LIBRARY=str(library))
