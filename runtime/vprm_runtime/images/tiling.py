"""Dynamic tiling: an image becomes a grid of square tiles near its aspect ratio, plus a thumbnail.

Source: OpenGVLab/InternVL @2410d1d, internvl_chat/internvl/train/dataset.py, `dynamic_preprocess`. Same grids and
pixels; here the tiles stay 8-bit NumPy arrays, because normalisation is part of the vision graph.

Pillow resizes in two passes with 8-bit pixels between them, so their order decides pixels. Up to Pillow 12 the
horizontal pass came first, and under it these models were trained and published. Pillow 13 takes the vertical pass
first for some sizes. Here the order is part of the definition of a tile: horizontal first, under every Pillow.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vprm_runtime.bundle.manifest import TilingInfo
from vprm_runtime.errors import InputError


@lru_cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) with min_tiles <= columns*rows <= max_tiles, by area.

    Grids of equal area keep the order that the original's set gives them, so the set is built in the same way.
    """
    grids = {
        (i, j)
        for n in range(min_tiles, max_tiles + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if min_tiles <= i * j <= max_tiles
    }
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def tile_grid(width_px: int, height_px: int, tiling: TilingInfo) -> tuple[int, int]:
    """(columns, rows) of the grid closest to the image's aspect ratio.

    On an exact tie the later (larger) grid wins if the image has more than half the grid's pixels.
    """
    aspect_ratio = width_px / height_px
    best, best_difference = (1, 1), float("inf")
    for columns, rows in _grids(tiling.min_tiles, tiling.max_tiles):
        difference = abs(aspect_ratio - columns / rows)
        enough_pixels = width_px * height_px > 0.5 * tiling.tile_size_px**2 * columns * rows
        if difference < best_difference or (difference == best_difference and enough_pixels):
            best, best_difference = (columns, rows), difference
    return best


def tile_count(width_px: int, height_px: int, tiling: TilingInfo) -> int:
    """Number of tiles that an image of this size is cut into, thumbnail included."""
    columns, rows = tile_grid(width_px, height_px, tiling)
    return columns * rows + (tiling.use_thumbnail and columns * rows > 1)


def tile_image(image: Image.Image, tiling: TilingInfo) -> NDArray[np.uint8]:
    """Cut an RGB image into tiles: uint8 [T, size, size, 3], row-major, thumbnail last if there are several.

    Raises InputError on an image without area, or one that there is no memory to resize.
    """
    if image.width == 0 or image.height == 0:
        raise InputError(f"the image has no area ({image.width} x {image.height} pixels)")
    size = tiling.tile_size_px
    columns, rows = tile_grid(image.width, image.height, tiling)
    count = rows * columns
    tiles = np.empty((tile_count(image.width, image.height, tiling), size, size, 3), np.uint8)
    grid = _resized(image, columns * size, rows * size).reshape(rows, size, columns, size, 3)
    tiles[:count].reshape(rows, columns, size, size, 3)[:] = grid.transpose(0, 2, 1, 3, 4)
    if len(tiles) > count:
        tiles[count] = _resized(image, size, size)
    return tiles


def _resized(image: Image.Image, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Bicubic, horizontal pass first: one call for each direction that changes leaves Pillow no choice of order."""
    size = f"{image.width:,} x {image.height:,}"
    try:
        if width_px != image.width and height_px != image.height:
            image = image.resize((width_px, image.height), Image.Resampling.BICUBIC)
        return np.asarray(image.resize((width_px, height_px), Image.Resampling.BICUBIC))
    except MemoryError as error:
        raise InputError(f"there is no memory to resize the image ({size} pixels): scale it down first") from error
