"""Bundles at float16 with random weights, and what is needed to skip where TensorRT-RTX is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle


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
