"""Checkpoints and bundles that benchmarks run: the demo PRM, or VisualPRM-8B's layer shapes with fewer layers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import vprm_demo
from vprm_benchmarks.random_checkpoint import checkpoint_bytes, visualprm_8b_spec, write_random_checkpoint
from vprm_benchmarks.reference.tokenizer import ReferenceTokenizer, load_tokenizer
from vprm_benchmarks.speed.bundles import BundleKind
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle
from vprm_runtime.room import check_room

ModelName = Literal["demo", "8b-slice"]
FULL_LAYERS, FULL_VISION_LAYERS = 32, 24  # VisualPRM-8B
_PARAMETER_BYTES = {"fp32": 4.0, "int8": 1.0, "w8": 1.0, "w4": 0.5, "fp8": 1.0}


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


@dataclass(frozen=True)
class Needs:
    """What a benchmark needs at least for each parameter: bytes of memory, and of disk beside the checkpoint."""

    memory_bytes: float = 0
    disk_bytes: float = 0

    @staticmethod
    def of_bundles(kinds: Iterable[BundleKind]) -> Needs:
        """Bundles on the disk, which are mapped into memory."""
        return Needs(disk_bytes=sum(_PARAMETER_BYTES.get(kind.precision, 2.0) for kind in kinds))


@contextmanager
def prepared_model(name: ModelName, depth: Depth, needs: Needs = Needs()) -> Iterator[Model]:
    """The model in a temporary folder, gone afterwards: `8b-slice` has 0.44 GB a layer, and 3 GB of embeddings.

    Raises EngineError, with the figures, if memory or disk do not suffice.
    """
    spec = visualprm_8b_spec(depth.layers, depth.vision_layers)
    if name != "demo":
        size = checkpoint_bytes(spec)  # two for each parameter
        check_room(
            f"{depth.layers} + {depth.vision_layers} layers of {name}",
            memory_bytes=needs.memory_bytes * size / 2,
            disk_bytes=size + needs.disk_bytes * size / 2,
            folder=Path(tempfile.gettempdir()),
        )
    directory = Path(tempfile.mkdtemp(prefix="vprm-bench-"))
    try:
        if name == "demo":
            yield Model(vprm_demo.checkpoint_dir(), directory)
        else:
            checkpoint = directory / "checkpoint"
            write_random_checkpoint(checkpoint, spec)
            yield Model(checkpoint, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
