"""InternVL's dynamic tiling, for training and for tests: a copy of the maths, as this package imports from no other.

Source: OpenGVLab/InternVL @2410d1d, `internvl_chat/internvl/train/dataset.py` (`dynamic_preprocess`).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

IMAGE_SIZE_PX = 224
MAX_TILES = 4


def grid_for(width_px: int, height_px: int, max_tiles: int = MAX_TILES) -> tuple[int, int]:
    """Columns and rows of tiles for an image; on a tie in aspect ratio, more tiles only for an image large enough."""
    grids = sorted(
        {(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles + 1) if i * j <= max_tiles},
        key=lambda grid: (grid[0] * grid[1], grid),
    )
    aspect, best, best_gap = width_px / height_px, (1, 1), float("inf")
    for columns, rows in grids:
        gap = abs(aspect - columns / rows)
        if gap < best_gap:
            best, best_gap = (columns, rows), gap
        elif gap == best_gap and width_px * height_px > 0.5 * IMAGE_SIZE_PX**2 * columns * rows:
            best = (columns, rows)
    return best


def tiles_from_image(image: Image.Image, max_tiles: int = MAX_TILES) -> np.ndarray:
    """Tiles row by row, then the whole image if there are several: uint8 [n, 224, 224, 3]."""
    image = image.convert("RGB")
    columns, rows = grid_for(image.width, image.height, max_tiles)
    size = IMAGE_SIZE_PX
    whole = np.asarray(image.resize((size * columns, size * rows), Image.Resampling.BICUBIC))
    tiles = [whole[r * size : (r + 1) * size, c * size : (c + 1) * size] for r in range(rows) for c in range(columns)]
    if len(tiles) > 1:
        tiles.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(tiles)
