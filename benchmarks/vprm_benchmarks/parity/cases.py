"""What parity is tried on: built-in cases that cover the ways a prompt can differ, or the user's own rows.

The built-in images are made here: a coloured gradient with shapes on it, so that every tile has its own content and
a channel, row or column exchanged by mistake changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vprm_runtime import InputError, ScoreOptions
from vprm_runtime.datasets import BadRow, open_rows
from vprm_runtime.datasets.row import Row
from vprm_runtime.images.load import load_image
from vprm_runtime.inputs import response_of


@dataclass(frozen=True)
class ParityCase:
    """One question with its images and candidate responses (strings, or lists of steps)."""

    name: str
    question: str
    responses: tuple[str | tuple[str, ...], ...]
    images: tuple[Path | Image.Image, ...] = ()
    max_steps: int | None = None
    max_tiles: int | None = None


def draw_image(width_px: int, height_px: int, seed: int, mode: str = "RGB") -> Image.Image:
    """An image whose content depends on place, channel and seed."""
    generator = np.random.default_rng(seed)
    across = np.linspace(0, 255, width_px)[None, :, None]
    down = np.linspace(0, 255, height_px)[:, None, None]
    weights = generator.uniform(-1, 1, (2, 3))
    pixels = np.clip(128 + across * weights[0] / 2 + down * weights[1] / 2, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = generator.integers(0, width_px), generator.integers(0, height_px)
        size = int(generator.integers(2, max(3, min(width_px, height_px) // 4 + 1)))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((int(x), int(y), int(x) + size, int(y) + size), fill=colour)
    return image.convert(mode)


_QUESTION = "Find m \\angle 3."
_TWO_RESPONSES = (
    "The right angle is 90 degrees.\n\nIt is split into 39 degrees and angle 3.\n\nSo angle 3 = 90 - 39 = 51 degrees.",
    "The two angles are equal.\n\nAngle 3 = 180 - 39 = 141 degrees.\n\nSo m \\angle 3 = 42.",
)


def built_in_cases(tile_px: int) -> list[ParityCase]:
    """Cases for a model with tiles of ``tile_px``."""
    return [*_image_cases(tile_px), *_text_cases(tile_px)]


def _image_cases(tile_px: int) -> list[ParityCase]:
    """Images are sized so that the tile grids differ."""
    small, wide, large = tile_px // 2, tile_px * 2, tile_px * 3
    return [
        ParityCase("one-tile", _QUESTION, _TWO_RESPONSES, (draw_image(small, small + 3, 1),)),
        ParityCase("wide-2x1", _QUESTION, _TWO_RESPONSES, (draw_image(wide, tile_px, 2),)),
        ParityCase("tall-1x3", _QUESTION, _TWO_RESPONSES[:1], (draw_image(tile_px - 5, large, 3),)),
        ParityCase("grid-4x3", _QUESTION, _TWO_RESPONSES[:1], (draw_image(large * 4 // 3, large, 4),)),
        ParityCase("thin-12x1", _QUESTION, _TWO_RESPONSES[:1], (draw_image(large * 5, tile_px // 2, 5),), max_tiles=12),
        ParityCase("six-tiles-at-most", _QUESTION, _TWO_RESPONSES[:1], (draw_image(large, wide, 6),), max_tiles=6),
        ParityCase("grey", "How dark is it?", ("Dark.\n\nVery.",), (draw_image(small, tile_px, 7, "L"),)),
        ParityCase("transparent", "What is shown?", ("A shape.",), (draw_image(tile_px, small, 8, "RGBA"),)),
        ParityCase(
            "two-images-in-front",
            "Which picture is larger?",
            ("The first.\n\nIt is wider.", "The second."),
            (draw_image(wide, tile_px, 9), draw_image(small, small, 10)),
        ),
        ParityCase(
            "two-images-in-place",
            "First <image> and then <image>\nWhat changed?",
            ("The colour.\n\nThe size, too.",),
            (draw_image(small, small, 11), draw_image(tile_px, wide, 12)),
        ),
    ]


def _text_cases(tile_px: int) -> list[ParityCase]:
    small = tile_px // 2
    return [
        ParityCase("text-only", "What is 17 * 3?", ("17 * 3 = 51.\n\nThe answer is 51.", "It is 41.")),
        ParityCase(
            "max-steps",
            _QUESTION,
            ("\n\n".join(f"Step {number}: {number} + 1 = {number + 1}." for number in range(1, 8)), _TWO_RESPONSES[0]),
            (draw_image(small, tile_px, 13),),
            max_steps=3,
        ),
        ParityCase(
            "unicode",
            "求 ∠ABC 的度数。 <image1> é naïve\tÅ",
            ("因为 ∠A = 30°，所以 ∠B = 60°。\n\n😀\u200b … \n  a▁b \r\n½ × ½ = ¼",),
            (draw_image(small, small, 14),),
        ),
        ParityCase(
            "empty-step",
            _QUESTION,
            (("The angle is right.", "", "So it is 51."), ("", "It is 51.")),
            (draw_image(small, small, 15),),
        ),
        ParityCase(
            "space-at-step-start",
            _QUESTION,
            (("  two spaces", "\nnewline", "\n\n\n", " "), ("\n+", "-\n", "+")),
            (draw_image(small, small, 16),),
        ),
        ParityCase(
            "31-steps",
            _QUESTION,
            (tuple(f"{number}. Add {number} to get {number * (number + 1) // 2}." for number in range(1, 32)),),
            (draw_image(small, small, 17),),
        ),
        ParityCase("many-alike", _QUESTION, (_TWO_RESPONSES[0], _TWO_RESPONSES[1], _TWO_RESPONSES[0], "51")),
    ]


@dataclass(frozen=True)
class NotComparable:
    """A row that the two sides cannot be compared on, and why."""

    name: str
    reason: str


def cases_from_rows(rows: Path, image_root: Path | None = None) -> Iterator[ParityCase | NotComparable]:
    """Cases from a file of rows, of every kind that `vprm score --input` takes, in its order.

    Relative image paths are looked up beside the file, or under ``image_root``. A row that cannot be used comes with
    the reason.
    """
    for row in open_rows(rows, image_root):
        name = str(row.id)
        try:
            if isinstance(row, BadRow):
                raise InputError(row.error)
            yield _case_from_row(row, f"row {row.id}")
        except InputError as error:
            yield NotComparable(name, str(error))


def _case_from_row(row: Row, where: str) -> ParityCase:
    given = [response_of(response) for response in row.responses]
    responses: tuple[Any, ...] = tuple(tuple(one) if isinstance(one, list) else one for one in given)
    if not row.question.strip():
        raise InputError(f"{where}: the question is empty")
    if not all(
        isinstance(response, str) or (isinstance(response, tuple) and response and all(map(_is_text, response)))
        for response in responses
    ):
        raise InputError(f"{where}: a response is a string, or a list of at least one string")
    row.options(ScoreOptions())
    try:
        images = tuple(image if isinstance(image, Path) else load_image(image) for image in row.images)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return ParityCase(str(row.id), row.question, responses, images, row.max_steps, row.max_tiles)


def _is_text(step: object) -> bool:
    return isinstance(step, str)
