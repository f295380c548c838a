"""Tiles of libvprm are the Python package's, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cpp.conftest import Runner, RunnerError, built
from tests.runtime.test_tiling import PIXELS, synthetic

from vprm_runtime.bundle.manifest import TilingInfo
from vprm_runtime.images.tiling import tile_grid, tile_image

GOLDEN_GRIDS = json.loads((Path(__file__).parents[1] / "data/golden/tile_grids.json").read_text("utf-8"))
SIZES = int(os.environ.get("VPRM_TILE_SIZES", "60"))


def test_golden_pixels(runner: Runner, as_image: Callable[..., dict[str, Any]]) -> None:
    for case in PIXELS:
        pixels = np.asarray(synthetic(case["width"], case["height"]))
        image = as_image(pixels)
        ((_, digest),) = runner(
            "tiles",
            file=image["file"],
            shapes=[[case["width"], case["height"]]],
            size=case["tile_px"],
            max_tiles=case["max_tiles"],
            thumbnail=case["thumbnail"],
        )
        assert digest[:16] == case["sha256"], case
        Path(image["file"]).unlink()


def test_golden_grids(runner: Runner) -> None:
    names = {"width": "width", "height": "height", "size": "image_size", "min_tiles": "min_num", "max_tiles": "max_num"}
    cases = [{mine: case[theirs] for mine, theirs in names.items()} for case in GOLDEN_GRIDS]
    assert runner("grids", cases=cases) == [case["grid"] for case in GOLDEN_GRIDS]


@pytest.mark.parametrize("build", ["release", "O2", "march-native"])
def test_random_sizes(build: str, tmp_path: Path) -> None:
    """From one pixel to far beyond the grid, with and without a gap between rows, at three levels of optimisation."""
    if build != "release" and not os.environ.get("VPRM_TILE_SIZES"):
        pytest.skip("another build: run with VPRM_TILE_SIZES=1500")
    flags = {"release": (), "O2": ("-O2",), "march-native": ("-O3 -march=native",)}[build]
    folder = built(build, *(f"-DCMAKE_CXX_FLAGS={flag}" for flag in flags), *["-DCMAKE_BUILD_TYPE=None"] * len(flags))
    runner = Runner(folder / "tests/vprm_runner")
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, 3 * 1700 * 1700, np.uint8)
    noise.tofile(tmp_path / "noise")
    for number in range(SIZES):
        longest = (40, 300, 1600)[number % 3]
        width, height = (int(size) for size in random.integers(1, longest + 1, 2))
        gap = int(random.integers(0, 4))
        tiling = TilingInfo(56 if number % 4 else 448, 1, int(random.integers(1, 25)), bool(number % 2))
        rows = noise[: height * (3 * width + gap)].reshape(height, 3 * width + gap)[:, : 3 * width]
        expected = tile_image(Image.fromarray(np.ascontiguousarray(rows.reshape(height, width, 3))), tiling)
        ((count, digest),) = runner(
            "tiles",
            file=str(tmp_path / "noise"),
            shapes=[[width, height, gap]],
            size=tiling.tile_size_px,
            max_tiles=tiling.max_tiles,
            thumbnail=tiling.use_thumbnail,
        )
        assert (count, digest) == (len(expected), hashlib.sha256(expected.tobytes()).hexdigest()), (
            width,
            height,
            tiling,
        )
    assert runner.close() == 0


def test_grids_of_equal_area_are_refused_where_their_order_decides(runner: Runner, tmp_path: Path) -> None:
    """Only with min_tiles above 1: Python goes by the order of its sets there."""
    (tmp_path / "zeros").write_bytes(bytes(3 * 100 * 100))
    given = {"file": str(tmp_path / "zeros"), "size": 56, "min_tiles": 2, "max_tiles": 2, "thumbnail": True}
    for width, height in ((50, 40), (100, 80)):
        with pytest.raises(RunnerError, match="equally close to two grids of equal area"):
            runner("tiles", shapes=[[width, height]], **given)
    for width, height in ((51, 40), (49, 40), (100, 50)):
        columns, rows = tile_grid(width, height, TilingInfo(56, 2, 2, True))
        ((count, _),) = runner("tiles", shapes=[[width, height]], **given)
        assert count == columns * rows + 1
