"""`vprm bench preprocess`: from the bytes of an image to tiles, beside the least that Pillow has to do for them."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vprm_benchmarks.speed.cli import Say, add_benchmark, add_number, add_rounds
from vprm_benchmarks.speed.photo import encoded, photo
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_runtime.bundle.manifest import TilingInfo
from vprm_runtime.cli.common import Subparsers, positive_int
from vprm_runtime.images.load import load_image
from vprm_runtime.images.tiling import tile_grid, tile_image
from vprm_runtime.options import ScoreOptions

if TYPE_CHECKING:
    import torch

_TILE_PX = 448
_GOAL = Goal(bar=1.3, stretch=1.1)


def register(benchmarks: Subparsers) -> None:
    """Add the `preprocess` parser."""
    parser = add_benchmark(
        benchmarks,
        "preprocess",
        run,
        "tiling of a photo beside Pillow's own decoding and resizing",
        "Tile a generated photo (JPEG and PNG) and a small image, from their bytes. Contenders: vprm (decode, grid, "
        "tiles, thumbnail), pillow (decode, convert, resize to the grid, resize to the thumbnail, nothing else) and "
        "transformers (the same tiles through the PyTorch reference, normalised to float32).",
    )
    add_rounds(parser, default=9)
    parser.add_argument("--width", type=positive_int, default=4000, metavar="PX", help="of the photo (default: 4000)")
    parser.add_argument("--height", type=positive_int, default=3000, metavar="PX", help="of the photo (default: 3000)")
    add_number(parser, "--max-tiles", 12, "tiles at most")


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; every contender starts from the same bytes in memory."""
    from vprm_benchmarks.speed.roofline import cpu_roofline

    ScoreOptions(max_tiles=args.max_tiles)  # refuses what scoring refuses
    say("roofline")
    report = Report("preprocess", cpu_roofline(args.threads, args.roofline_size))
    report.settings = {name: getattr(args, name) for name in ("width", "height", "max_tiles", "rounds")}
    tiling = TilingInfo(_TILE_PX, 1, args.max_tiles, True)
    calls: dict[str, Callable[[], object]] = {}
    for name, data in _files(args.width, args.height).items():
        tiles = vprm(data, tiling)
        report.accuracy[name] = {"tiles": len(tiles), "pixels_unlike_the_reference": _unlike(tiles, data, tiling)}
        calls |= {f"{who.__name__}_{name}": partial(who, data, tiling) for who in (vprm, pillow, transformers)}
    report.add_times(interleaved(calls, args.rounds, say=say))
    for name in report.accuracy:
        goal = _GOAL if name == "photo_jpeg" else None
        report.ratio(f"vprm_{name}", f"pillow_{name}", goal)
        report.ratio(f"transformers_{name}", f"vprm_{name}")
    return report


def _files(width_px: int, height_px: int) -> Mapping[str, bytes]:
    image = photo(width_px, height_px)
    small = image.resize((max(1, width_px // 8), max(1, height_px // 8)))
    return {
        "photo_jpeg": encoded(image, "JPEG"),
        "photo_png": encoded(image, "PNG"),
        "small_png": encoded(small, "PNG"),
    }


def vprm(data: bytes, tiling: TilingInfo) -> NDArray[np.uint8]:
    """Tiles uint8 [T, size, size, 3]; normalisation is part of the vision graph."""
    return tile_image(load_image(data), tiling)


def pillow(data: bytes, tiling: TilingInfo) -> tuple[Image.Image, Image.Image]:
    """What Pillow has to do for the tiles: the image at the grid's size, and the thumbnail."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    columns, rows = tile_grid(image.width, image.height, tiling)
    size = tiling.tile_size_px
    grid = image.resize((columns * size, rows * size), Image.Resampling.BICUBIC)
    return grid, image.resize((size, size), Image.Resampling.BICUBIC)


def transformers(data: bytes, tiling: TilingInfo) -> torch.Tensor:
    """Pixel values float32 [T, 3, size, size], by the PyTorch reference."""
    from vprm_benchmarks.reference.images import load_tiles, pixel_values_from_tiles

    with Image.open(io.BytesIO(data)) as opened:
        return pixel_values_from_tiles(load_tiles(opened, tiling.tile_size_px, tiling.min_tiles, tiling.max_tiles))


def _unlike(tiles: NDArray[np.uint8], data: bytes, tiling: TilingInfo) -> int:
    """Values of our tiles that differ from the reference's."""
    from vprm_benchmarks.reference.images import load_tiles, tiles_to_array

    with Image.open(io.BytesIO(data)) as opened:
        expected = tiles_to_array(load_tiles(opened, tiling.tile_size_px, tiling.min_tiles, tiling.max_tiles))
    return int((tiles != expected).sum()) if tiles.shape == expected.shape else tiles.size
