"""The reference and engines with a clock around the vision encoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vprm_benchmarks.reference.scorer import ReferenceImages, ReferenceScorer
from vprm_runtime.engines.base import EngineProxy, ImageRows


class TimedReference(ReferenceScorer):
    """`vision_s`: seconds that tiling and the vision encoder have taken so far."""

    vision_s = 0.0

    def encode_images(self, images: Sequence[Path | Image.Image], max_tiles: int | None = None) -> ReferenceImages:
        started = time.perf_counter()
        encoded = super().encode_images(images, max_tiles)
        self.vision_s += time.perf_counter() - started
        return encoded


class TimedEngine(EngineProxy):
    """`vision_s`: seconds that the vision encoder has taken so far."""

    vision_s = 0.0

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> ImageRows:
        started = time.perf_counter()
        embeds = super().encode_tiles(tiles)
        self.vision_s += time.perf_counter() - started
        return embeds
