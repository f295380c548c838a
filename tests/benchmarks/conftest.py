"""Random checkpoints and their bundles, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vprm_benchmarks.random_checkpoint import CheckpointSpec, tiny_spec, write_random_checkpoint
from vprm_export import ExportOptions, export_bundle

MakeCheckpoint = Callable[[CheckpointSpec], Path]
MakeBundle = Callable[[Path, ExportOptions], Path]

torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """A random checkpoint's directory by its spec, written on first use."""
    made: dict[str, Path] = {}

    def make(spec: CheckpointSpec) -> Path:
        key = repr(spec)
        if key not in made:
            made[key] = write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), spec)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """A bundle's directory by checkpoint and options, exported on first use."""
    made: dict[tuple[Path, str], Path] = {}

    def make(checkpoint: Path, options: ExportOptions) -> Path:
        key = (checkpoint, repr(options))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("bundle") / "bundle"
            export_bundle(checkpoint, made[key], options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """The InternLM2 checkpoint of test width, in bfloat16 shards like the hub's."""
    return make_checkpoint(replace(tiny_spec(), dtype="bfloat16", max_shard_bytes=400_000))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    """Its float32 bundle."""
    return make_bundle(tiny_checkpoint, ExportOptions())
