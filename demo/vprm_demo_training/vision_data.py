"""Batches for the vision stage: the whole image as one tile, with its dense targets."""

from __future__ import annotations

from random import Random

import numpy as np

from vprm_demo.generator import Variation, scene
from vprm_demo.generator.tiling import tiles_from_image

from .dense import HEADS, targets_from_regions
from .scatter import scatter


def vision_batch(seed: int, size: int, side: int, scatter_share: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Tiles uint8 [size, 224, 224, 3] and targets uint8 [size, side * side, heads + 1], from training images."""
    rng = Random(seed)
    tiles = np.empty((size, 224, 224, 3), dtype=np.uint8)
    targets = np.empty((size, side * side, len(HEADS) + 1), dtype=np.uint8)
    for index in range(size):
        if rng.random() < scatter_share:
            made = scatter(rng)
        else:
            made = scene(rng, Variation(shape="tile" if rng.random() < 0.7 else "mixed"))
        tiles[index] = tiles_from_image(made.image)[-1]
        targets[index] = targets_from_regions(made.regions, side)
    return tiles, targets
