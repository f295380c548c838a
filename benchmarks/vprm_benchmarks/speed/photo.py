"""Images for benchmarks, made on the spot: the same for the same size."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

_NOISE = 5.0  # standard deviation of a sensor's noise, in grey levels


def photo(width_px: int, height_px: int) -> Image.Image:
    """RGB with what a photographed page has: soft light, lines, letters, and noise in every pixel."""
    random = np.random.default_rng(3)
    light = Image.fromarray(random.integers(120, 256, (6, 8, 3), np.uint8))
    image = light.resize((width_px, height_px), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for number in range(60):
        x, y = int(random.integers(width_px)), int(random.integers(height_px))
        ink = tuple(int(level) for level in random.integers(0, 100, 3))
        draw.line(
            (x, y, int(random.integers(width_px)), int(random.integers(height_px))), ink, width=1 + width_px // 1000
        )
        draw.text((x, y), f"m = {number * 7}° + x/{number + 2}", ink, font_size=max(8, height_px // 40))
    pixels = np.asarray(image, np.float32)
    pixels = pixels + random.standard_normal(pixels.shape, np.float32) * np.float32(_NOISE)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, file_format: Literal["JPEG", "PNG"]) -> bytes:
    """The bytes of an image file; JPEG as cameras write it, PNG with little effort."""
    file = io.BytesIO()
    if file_format == "JPEG":
        image.save(file, "JPEG", quality=92, subsampling="4:2:0")
    else:
        image.save(file, "PNG", compress_level=1)
    return file.getvalue()
