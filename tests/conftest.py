"""Fixtures over all rooms: checkpoints in the hub's layout, bundles exported from them, opened scorers."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.support.fake_hub import hub as hub

from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint
from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, StepScorer


def pytest_report_header() -> str:
    """Versions that decide numbers."""
    names = ("numpy", "pillow", "onnxruntime", "onnx-ir", "tokenizers", "torch", "transformers")
    return "vprm with " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random weights at test width, by LLM family; each is made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = write_random_checkpoint(tmp_path_factory.mktemp(family) / "checkpoint", tiny_spec(family))
        return made[family]

    return get


@pytest.fixture(scope="session")
def random_scorer(
    random_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], StepScorer]:
    """A scorer on the fp32 bundle of `random_checkpoint`, by LLM family."""
    opened: dict[str, StepScorer] = {}

    def get(family: str) -> StepScorer:
        if family not in opened:
            bundle = tmp_path_factory.mktemp(family) / "bundle"
            export_bundle(random_checkpoint(family), bundle)
            opened[family] = StepScorer.open(bundle)
        return opened[family]

    return get


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo PRM, exported at fp32. Tests must not change it."""
    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    export_bundle(checkpoint_dir(), bundle, ExportOptions("fp32"))
    return bundle


@pytest.fixture(scope="session")
def demo_scorer(demo_bundle: Path) -> StepScorer:
    """A scorer on `demo_bundle`."""
    return StepScorer.open(demo_bundle)


@pytest.fixture
def make_image() -> Callable[..., Image.Image]:
    """Makes images of noise: (width_px, height_px, seed) -> RGB."""

    def make(width_px: int = 90, height_px: int = 60, seed: int = 0) -> Image.Image:
        pixels: NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at test width: cached rows of 64 bytes at float16, which TensorRT cannot write in place."""
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", tiny_spec())


@pytest.fixture(scope="session")
def fp16_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`checkpoint` at fp16. Tests must not change it."""
    path = tmp_path_factory.mktemp("fp16") / "bundle"
    export_bundle(checkpoint, path, ExportOptions("fp16"))
    return Bundle.open(path)
