"""Grids and pixels of the tiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vprm_runtime import InputError
from vprm_runtime.bundle.manifest import TilingInfo
from vprm_runtime.images.load import load_image
from vprm_runtime.images.tiling import tile_grid, tile_image

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden" / "tile_grids.json").read_text("utf-8"))


PIXELS = json.loads((Path(__file__).parent.parent / "data" / "golden" / "tile_pixels.json").read_text("utf-8"))


def synthetic(width_px: int, height_px: int) -> Image.Image:
    """The image that the golden pixels were made from: integer arithmetic alone."""
    x, y = np.arange(width_px, dtype=np.int64)[None, :], np.arange(height_px, dtype=np.int64)[:, None]
    red, green, blue = x * x * 7 + y * 13 + x * y, x * 5 + y * y * 3 + (x ^ y), x * 11 + y * 17 + (x * y) // 7
    return Image.fromarray((np.stack([red, green, blue], -1) % 256).astype(np.uint8))


def pixels_hash(case: dict[str, Any]) -> str:
    tiling = TilingInfo(case["tile_px"], 1, case["max_tiles"], case["thumbnail"])
    tiles = tile_image(synthetic(case["width"], case["height"]), tiling)
    return hashlib.sha256(tiles.tobytes()).hexdigest()[:16]


def test_golden_pixels_under_every_pillow() -> None:
    """300 sizes as Pillow 11.0 resizes them in one call each. Pillow 13 gives 89 of them other pixels in one call."""
    assert len(PIXELS) == 300
    wrong = [(case["width"], case["height"]) for case in PIXELS if pixels_hash(case) != case["sha256"]]
    assert wrong == []


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['width']}x{case['height']}-{case['max_num']}")
def test_golden_grids(case: dict[str, int]) -> None:
    tiling = TilingInfo(case["image_size"], case["min_num"], case["max_num"], bool(case["use_thumbnail"]))
    columns, rows = tile_grid(case["width"], case["height"], tiling)
    assert [columns, rows] == case["grid"]
    thumbnail = 1 if tiling.use_thumbnail and columns * rows > 1 else 0
    assert columns * rows + thumbnail == case["tiles"]


def test_tiles_are_row_major_crops_then_the_thumbnail(make_image: Callable[..., Image.Image]) -> None:
    image = make_image(300, 200)
    tiles = tile_image(image, TilingInfo(56, 1, 6, True))
    wide = image.resize((3 * 56, 200), Image.Resampling.BICUBIC)
    resized = wide.resize((3 * 56, 2 * 56), Image.Resampling.BICUBIC)
    crops = [resized.crop((x, y, x + 56, y + 56)) for y in (0, 56) for x in (0, 56, 112)]
    narrow = image.resize((56, 200), Image.Resampling.BICUBIC)
    crops.append(narrow.resize((56, 56), Image.Resampling.BICUBIC))
    assert tiles.dtype == np.uint8
    assert tiles.shape == (7, 56, 56, 3)
    for tile, crop in zip(tiles, crops, strict=True):
        np.testing.assert_array_equal(tile, np.asarray(crop))


def test_without_thumbnail_or_with_one_tile_there_is_none(make_image: Callable[..., Image.Image]) -> None:
    assert len(tile_image(make_image(112, 56), TilingInfo(56, 1, 6, False))) == 2
    assert len(tile_image(make_image(56, 56), TilingInfo(56, 1, 6, True))) == 1


def test_every_way_to_hand_over_an_image_gives_the_same_pixels(
    make_image: Callable[..., Image.Image], tmp_path: Path
) -> None:
    image = make_image()
    path = tmp_path / "image.png"
    image.save(path)
    expected = np.asarray(image)
    for given in (image, path, str(path), path.read_bytes(), expected):
        np.testing.assert_array_equal(np.asarray(load_image(given)), expected)


def test_exif_rotation_and_alpha_are_ignored(make_image: Callable[..., Image.Image], tmp_path: Path) -> None:
    rotated, alpha = tmp_path / "rotated.png", tmp_path / "alpha.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image().save(rotated, exif=exif)
    transparent = make_image().copy()
    transparent.putalpha(0)
    transparent.save(alpha)
    for path in (rotated, alpha):
        np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(make_image()))


def test_sixteen_bits_are_cut_off_and_an_animation_gives_its_first_frame(
    make_image: Callable[..., Image.Image], tmp_path: Path
) -> None:
    """As the original does; docs/parity.md tells users."""
    Image.fromarray(np.array([[0, 200, 256, 65535]], np.uint16)).save(tmp_path / "grey.png")
    assert np.asarray(load_image(tmp_path / "grey.png"))[0, :, 0].tolist() == [0, 200, 255, 255]
    make_image().save(tmp_path / "moving.png", save_all=True, append_images=[make_image(seed=1)])
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "moving.png")), np.asarray(make_image()))


def test_images_that_cannot_be_read_say_what_to_do(make_image: Callable[..., Image.Image], tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.png"
    make_image(200, 200).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:5000])
    text = tmp_path / "text.png"
    text.write_text("not an image")
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(bomb)
    for path, message in (
        (truncated, "damaged"),
        (text, "convert it to PNG or JPEG"),
        (bomb, "scale it down"),
        (tmp_path / "absent.png", "check the path"),
        (tmp_path, "is a directory"),
        ("https://example.org/chart.png", "download the image"),
        (np.zeros((3, 4), np.uint8), "uint8 [H, W, 3]"),
        (bytearray(b"x"), "got bytearray"),
    ):
        with pytest.raises(InputError) as caught:
            load_image(path)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [(name, "RGB") for name in ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "MPO")]
    + [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("WEBP", "RGBA")],
)
def test_pixels_outlive_their_file(
    file_format: str, mode: str, make_image: Callable[..., Image.Image], tmp_path: Path
) -> None:
    """Pixels of RGB files are taken over without a copy: they must be whole, and stay when the file is gone."""
    path = tmp_path / "image"
    make_image(200, 150).convert(mode).save(path, file_format)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    loaded = load_image(path)
    path.unlink()
    np.testing.assert_array_equal(np.asarray(loaded), expected)
    tiles = tile_image(loaded, TilingInfo(56, 1, 2, True))
    np.testing.assert_array_equal(tiles, tile_image(Image.fromarray(expected), TilingInfo(56, 1, 2, True)))


def test_a_damaged_jpeg_is_found_when_it_is_opened(make_image: Callable[..., Image.Image], tmp_path: Path) -> None:
    path = tmp_path / "truncated.jpg"
    make_image(200, 200).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:5000])
    with Image.open(path) as opened:  # what a caller may hand over: not yet decoded
        for given in (path, opened):
            with pytest.raises(InputError, match="damaged"):
                load_image(given)


def test_transparency_of_palettes_is_dropped_without_a_warning(
    make_image: Callable[..., Image.Image], tmp_path: Path
) -> None:
    """Pixels are Pillow's own; an image that was given keeps what it says of transparency."""
    palette = make_image().quantize(16)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    for given in (tmp_path / "palette.png", Image.open(tmp_path / "palette.png")):
        np.testing.assert_array_equal(np.asarray(load_image(given)), np.asarray(palette.convert("RGB")))
    assert given.info["transparency"] == bytes(range(16))
