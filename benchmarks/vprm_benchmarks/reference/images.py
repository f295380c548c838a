"""Images to tiles and pixel values, by the steps of the VisualPRM model card (OpenGVLab/VisualPRM-8B, InternVL
@2410d1d).

Deliberately simple: floats, lists and Pillow calls in the order of the description, with torch for the normalisation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vprm_runtime.images.load import FORMATS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def tile_grid(width_px: int, height_px: int, tile_px: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """The (columns, rows) whose ratio is nearest to the image's, among all with min_tiles <= columns*rows <=
    max_tiles.

    Grids are tried in the order of their area; on an exact tie the later one wins only if the image has more than
    half of that grid's pixels. Grids of one area are tried in the iteration order of a Python set of pairs, as the
    original does; which of them comes first can matter only for a tie between equal areas.
    """
    shapes = {
        (columns, rows)
        for area in range(min_tiles, max_tiles + 1)
        for columns in range(1, area + 1)
        for rows in range(1, area + 1)
        if min_tiles <= columns * rows <= max_tiles
    }
    ratio = width_px / height_px
    best, best_gap = (1, 1), float("inf")
    for columns, rows in sorted(shapes, key=lambda shape: shape[0] * shape[1]):
        gap = abs(ratio - columns / rows)
        if gap < best_gap:
            best, best_gap = (columns, rows), gap
        elif gap == best_gap and width_px * height_px > 0.5 * tile_px * tile_px * columns * rows:
            best = (columns, rows)
    return best


def open_image(image: Path | Image.Image) -> Image.Image:
    """An image as RGB: neither turned by its EXIF orientation nor blended by its alpha channel."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    with Image.open(image, formats=list(FORMATS)) as opened:  # of strangers: none that starts a program
        return opened.convert("RGB")


def load_tiles(
    image: Path | Image.Image, tile_px: int, min_tiles: int, max_tiles: int, thumbnail: bool = True
) -> list[Image.Image]:
    """Cut an image into RGB tiles of tile_px x tile_px, row by row; with ``thumbnail`` the whole image is added when
    there are several."""
    rgb = open_image(image)
    columns, rows = tile_grid(rgb.width, rgb.height, tile_px, min_tiles, max_tiles)
    resized = resize(rgb, tile_px * columns, tile_px * rows)
    tiles = []
    for row in range(rows):
        for column in range(columns):
            left, top = column * tile_px, row * tile_px
            tiles.append(resized.crop((left, top, left + tile_px, top + tile_px)))
    if thumbnail and len(tiles) > 1:
        tiles.append(resize(rgb, tile_px, tile_px))
    return tiles


def resize(rgb: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """Bicubic (Pillow's default for RGB), the width first and then the height.

    These models were trained and published when Pillow did both in that order within one call. Pillow 13 chooses the
    order by the sizes, so the reference asks for the passes one by one.
    """
    narrowed = rgb.resize((width_px, rgb.height))
    return narrowed.resize((width_px, height_px))


def tiles_to_array(tiles: list[Image.Image]) -> NDArray[np.uint8]:
    """Tiles as uint8 [n, tile_px, tile_px, 3]."""
    return np.stack([np.asarray(tile, dtype=np.uint8) for tile in tiles])


def pixel_values_from_tiles(tiles: list[Image.Image]) -> torch.Tensor:
    """Tiles as float32 [n, 3, tile_px, tile_px]: divided by 255, minus the ImageNet mean, over its standard
    deviation."""
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    values = []
    for tile in tiles:
        pixels = torch.from_numpy(np.array(tile)).permute(2, 0, 1).contiguous()  # uint8 [3, tile_px, tile_px]
        values.append((pixels.to(torch.float32).div(255) - mean) / std)
    return torch.stack(values)
