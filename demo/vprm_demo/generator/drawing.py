"""Fonts, palettes and a canvas. Everything here is available offline with NumPy and Pillow alone.

Three kinds of type: Pillow's built-in scalable font (upright, bold, slanted), its old bitmap font enlarged, and
letters drawn from line strokes. The slanted style and the last palette are kept out of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

TRAINING_STYLES = ("plain", "bold", "bitmap", "stroke", "heavy")
HELD_OUT_STYLE = "slanted"

# Each stroke is a polyline on a grid 4 wide and 6 high (x to the right, y down).
_STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "0": (((1, 0), (3, 0), (4, 1.5), (4, 4.5), (3, 6), (1, 6), (0, 4.5), (0, 1.5), (1, 0)),),
    "1": (((0.8, 1.2), (2.2, 0), (2.2, 6)), ((0.8, 6), (3.6, 6))),
    "2": (((0, 1.2), (1, 0), (3, 0), (4, 1.2), (4, 2.3), (0, 6), (4, 6)),),
    "3": (
        ((0, 0.6), (1.2, 0), (3, 0), (4, 1), (4, 2), (3, 2.9), (1.5, 2.9)),
        ((3, 2.9), (4, 3.8), (4, 5), (3, 6), (1, 6), (0, 5.3)),
    ),
    "4": (((3, 6), (3, 0), (0, 4.2), (4, 4.2)),),
    "5": (((3.8, 0), (0.4, 0), (0.2, 2.6), (2.8, 2.4), (4, 3.4), (4, 4.8), (3, 6), (1, 6), (0, 5.2)),),
    "6": (((3.5, 0), (1.5, 0.6), (0, 3), (0, 4.8), (1, 6), (3, 6), (4, 4.9), (4, 3.9), (3, 2.9), (1, 2.9), (0, 3.9)),),
    "7": (((0, 0), (4, 0), (1.4, 6)),),
    "8": (
        ((1, 0), (3, 0), (3.8, 0.8), (3.8, 2), (3, 2.8), (1, 2.8), (0.2, 2), (0.2, 0.8), (1, 0)),
        ((1, 2.8), (0, 3.8), (0, 5), (1, 6), (3, 6), (4, 5), (4, 3.8), (3, 2.8)),
    ),
    "9": (((0.5, 6), (2.5, 5.4), (4, 3), (4, 1.2), (3, 0), (1, 0), (0, 1.1), (0, 2.1), (1, 3.1), (3, 3.1), (4, 2.1)),),
    "A": (((0, 6), (2, 0), (4, 6)), ((0.8, 3.8), (3.2, 3.8))),
    "B": (
        ((0, 0), (0, 6), (3, 6), (4, 5), (4, 3.8), (3, 2.9), (0, 2.9)),
        ((3, 2.9), (3.7, 2), (3.7, 0.9), (2.8, 0), (0, 0)),
    ),
    "C": (((4, 1), (3, 0), (1, 0), (0, 1.5), (0, 4.5), (1, 6), (3, 6), (4, 5)),),
    "D": (((0, 0), (0, 6), (2.5, 6), (4, 4.5), (4, 1.5), (2.5, 0), (0, 0)),),
    "E": (((4, 0), (0, 0), (0, 6), (4, 6)), ((0, 2.9), (3, 2.9))),
    "F": (((4, 0), (0, 0), (0, 6)), ((0, 2.9), (3, 2.9))),
    "G": (((4, 1), (3, 0), (1, 0), (0, 1.5), (0, 4.5), (1, 6), (3, 6), (4, 5), (4, 3.3), (2.3, 3.3)),),
    "H": (((0, 0), (0, 6)), ((4, 0), (4, 6)), ((0, 3), (4, 3))),
    "X": (((0, 0), (4, 6)), ((4, 0), (0, 6))),
    "Y": (((0, 0), (2, 3), (4, 0)), ((2, 3), (2, 6))),
    "Z": (((0, 0), (4, 0), (0, 6), (4, 6)),),
    "\u00b0": (((1, 0), (2.2, 0), (2.2, 1.4), (1, 1.4), (1, 0)),),
}


@dataclass(frozen=True)
class Palette:
    """Colours of an image: background, lines and text, bars, and the five named colours of shapes."""

    background: Colour
    ink: Colour
    bars: tuple[Colour, ...]
    named: tuple[Colour, ...]


_NAMED = ((214, 48, 42), (44, 92, 208), (42, 150, 70), (244, 200, 30), (140, 60, 165))
_NAMED_LIGHT = ((238, 82, 70), (70, 130, 235), (80, 185, 95), (250, 218, 70), (170, 95, 200))
_NAMED_DEEP = ((180, 20, 30), (20, 60, 165), (20, 115, 50), (225, 175, 10), (105, 35, 130))
_NAMED_HELD_OUT = ((200, 62, 56), (58, 112, 190), (58, 136, 84), (236, 208, 52), (126, 74, 150))

TRAINING_PALETTES = (
    Palette((255, 255, 255), (10, 10, 10), ((90, 140, 215), (235, 140, 60), (110, 180, 110)), _NAMED),
    Palette((248, 246, 236), (40, 40, 60), ((200, 110, 110), (120, 160, 200), (150, 150, 150)), _NAMED_LIGHT),
    Palette((232, 240, 248), (20, 30, 70), ((230, 180, 80), (90, 170, 170), (190, 120, 190)), _NAMED_DEEP),
    Palette((242, 242, 242), (60, 20, 20), ((120, 190, 120), (200, 160, 110), (130, 130, 200)), _NAMED),
    Palette((255, 250, 250), (0, 50, 40), ((170, 200, 230), (240, 170, 170), (180, 210, 160)), _NAMED_DEEP),
)
HELD_OUT_PALETTE = Palette(
    (236, 246, 234), (52, 30, 70), ((210, 170, 120), (130, 180, 170), (180, 160, 210)), _NAMED_HELD_OUT
)


@lru_cache(maxsize=16384)
def text_mask(text: str, style: str, height_px: int, tilt_degrees: int) -> Image.Image:
    """`text` as an 8-bit mask, cropped to its ink. `height_px` is the height of a digit; `tilt_degrees` turns it."""
    if style in ("stroke", "heavy"):
        mask = _stroke_mask(text, height_px, heavy=style == "heavy")
    elif style == "bitmap":
        font = ImageFont.load_default_imagefont()
        small = Image.new("L", (8 * len(text) + 4, 14))
        ImageDraw.Draw(small).text((1, 1), text, fill=255, font=font)
        small = small.crop(small.getbbox())
        scale = height_px / 8
        mask = small.resize(
            (max(1, round(small.width * scale)), max(1, round(small.height * scale))), Image.Resampling.BICUBIC
        )
    else:
        font_px = round(height_px / 0.72)
        scalable = ImageFont.load_default(font_px)
        weight = {"plain": 0, "bold": max(1, font_px // 26), "slanted": max(1, font_px // 34)}[style]
        mask = Image.new("L", (font_px * (len(text) + 1), 2 * font_px))
        ImageDraw.Draw(mask).text((font_px // 2, font_px // 4), text, fill=255, font=scalable, stroke_width=weight)
        if style == "slanted":
            mask = mask.transform(
                mask.size, Image.Transform.AFFINE, (1, 0.22, -0.22 * font_px, 0, 1, 0), Image.Resampling.BICUBIC
            )
        mask = mask.crop(mask.getbbox())
    if tilt_degrees:
        mask = mask.rotate(tilt_degrees, Image.Resampling.BICUBIC, expand=True)
    return mask


def _stroke_mask(text: str, height_px: int, heavy: bool) -> Image.Image:
    """Text from `_STROKES`, drawn at four times the size and reduced."""
    unit = 4 * height_px / 6
    width_px = round(4 * height_px * (0.17 if heavy else 0.1))
    advance = unit * 4.2 + 2 * width_px
    canvas = Image.new("L", (round(advance * len(text) + 4 * width_px), round(6 * unit + 4 * width_px)))
    draw = ImageDraw.Draw(canvas)
    for index, character in enumerate(text):
        for line in _STROKES[character]:
            points = [(index * advance + 2 * width_px + x * unit * 0.85, 2 * width_px + y * unit) for x, y in line]
            draw.line(points, fill=255, width=width_px, joint="curve")
    canvas = canvas.crop(canvas.getbbox())
    return canvas.resize((max(1, canvas.width // 4), max(1, canvas.height // 4)), Image.Resampling.BOX)


@dataclass(frozen=True)
class Look:
    """The looks of one image: palette, type, line width and noise, drawn once and used throughout it."""

    palette: Palette
    style: str
    tilt_degrees: int
    line_px: int
    noise: int

    @staticmethod
    def draw(rng: Random, held_out: bool) -> Look:
        """Choose a look; held-out looks share no font style and no palette with the others."""
        return Look(
            palette=HELD_OUT_PALETTE if held_out else rng.choice(TRAINING_PALETTES),
            style=HELD_OUT_STYLE if held_out else rng.choice(TRAINING_STYLES),
            tilt_degrees=rng.choice((0, 0, 0, -4, 4)),
            line_px=rng.randint(2, 4),
            noise=rng.choice((0, 0, 3, 6)),
        )


class Canvas:
    """An image being drawn; coordinates are pixels from the top left."""

    def __init__(self, width_px: int, height_px: int, look: Look) -> None:
        self.image = Image.new("RGB", (width_px, height_px), look.palette.background)
        self.draw = ImageDraw.Draw(self.image)
        self.look = look
        self.width_px, self.height_px = width_px, height_px

    def text(
        self, text: str, centre: tuple[float, float], height_px: float, fit_px: float | None = None
    ) -> tuple[int, int]:
        """Write `text` around `centre`, at most `fit_px` wide; returns the ink's (width, height) in pixels."""
        mask = text_mask(text, self.look.style, max(8, round(height_px)), self.look.tilt_degrees)
        if fit_px is not None and mask.width > fit_px:
            mask = mask.resize((max(1, int(fit_px)), mask.height), Image.Resampling.BILINEAR)
        left = min(max(1, round(centre[0] - mask.width / 2)), max(1, self.width_px - mask.width - 1))
        top = min(max(1, round(centre[1] - mask.height / 2)), max(1, self.height_px - mask.height - 1))
        self.image.paste(self.look.palette.ink, (left, top), mask)
        return mask.width, mask.height

    def finish(self, rng: Random) -> Image.Image:
        """The image with its noise."""
        if not self.look.noise:
            return self.image
        pixels = np.asarray(self.image, dtype=np.int16)
        grain = _grain()
        top, left = rng.randrange(64), rng.randrange(64)
        noise = grain[top : top + self.height_px, left : left + self.width_px, None] * self.look.noise // 16
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """Gaussian noise with standard deviation 16, int16 [1100, 1100]; images take windows of it."""
    return np.rint(np.random.default_rng(20).normal(0, 16, (1100, 1100))).astype(np.int16)


def image_size(rng: Random, shape: str) -> tuple[int, int]:
    """Width and height in pixels for a shape of `Variation`; the tilings they lead to are one, 2 + 1 or 4 + 1 tiles."""
    if shape == "mixed":
        shape = rng.choices(("tile", "wide", "tall", "large"), (66, 13, 12, 9))[0]
    if shape == "tile":
        height = rng.randint(200, 290)
        return round(height * rng.uniform(0.86, 1.18)), height
    if shape == "wide":
        height = rng.randint(210, 260)
        return round(height * rng.uniform(1.6, 2.1)), height
    if shape == "tall":
        width = rng.randint(210, 260)
        return width, round(width * rng.uniform(1.5, 1.9))
    height = rng.randint(360, 480)
    return round(height * rng.uniform(0.86, 1.2)), height
