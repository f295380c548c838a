"""Checkpoints and bundles that benchmarks run: the demo PRM, or VisualPRM-8B's layer shapes with fewer layers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import vprm_demo
from vprm_benchmarks.random_checkpoint import visualprm_8b_spec, write_random_checkpoint
from vprm_benchmarks.reference.tokenizer import ReferenceTokenizer, load_tokenizer
from vprm_benchmarks.speed.bundles import BundleKind
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle

ModelName = Literal["demo", "8b-slice"]
FULL_LAYERS, FULL_VISION_LAYERS = 32, 24  # VisualPRM-8B


@dataclass(frozen=True)
class Depth:
    """Layers of `8b-slice`; the demo PRM has its own."""

    layers: int
    vision_layers: int


@dataclass(frozen=True)
class Model:
    """A checkpoint and a place for its bundles."""

    checkpoint: Path
    directory: Path

    @property
    def tile_px(self) -> int:
        """A tile's side in pixels."""
        return int(json.loads((self.checkpoint / "config.json").read_text("utf-8"))["force_image_size"])

    @cached_property
    def _tokenizer(self) -> ReferenceTokenizer:
        return load_tokenizer(self.checkpoint)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self._tokenizer.encode(text, add_bos=False))

    def bundle(self, kind: BundleKind) -> Bundle:
        """A bundle of the checkpoint, exported when it is first asked for; without calibration."""
        path = self.directory / f"{kind.precision}-{kind.vision or 'default'}-{kind.target}"
        if not path.exists():
            export_bundle(self.checkpoint, path, ExportOptions(kind.precision, kind.vision, target=kind.target))
        return Bundle.open(path)


@contextmanager
def prepared_model(name: ModelName, depth: Depth) -> Iterator[Model]:
    """The model in a temporary folder, gone afterwards: `8b-slice` has 0.44 GB a layer, and 3 GB of embeddings."""
    directory = Path(tempfile.mkdtemp(prefix="vprm-bench-"))
    try:
        if name == "demo":
            yield Model(vprm_demo.checkpoint_dir(), directory)
        else:
            checkpoint = directory / "checkpoint"
            write_random_checkpoint(checkpoint, visualprm_8b_spec(depth.layers, depth.vision_layers))
            yield Model(checkpoint, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
