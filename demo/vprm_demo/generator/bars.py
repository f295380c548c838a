"""Bar charts: lettered bars with their values above them."""

from __future__ import annotations

from random import Random

from PIL import Image

from .drawing import Canvas, Look, image_size
from .solving import (
    Reading,
    Templates,
    fill,
    misread,
    pick_pair,
    sum_and_difference,
)
from .types import LETTERS, Claim, FactMaker, Problem, Region, Scene, Step, Variation

LOW, HIGH = 2, 29

VALUE: Templates = (
    ("Bar ", 0, " shows ", 1, "."),
    ("The value of bar ", 0, " is ", 1, "."),
    ("Bar ", 0, " has the value ", 1, "."),
    ("In the chart, bar ", 0, " is ", 1, "."),
)
COUNT: Templates = (("There are ", 0, " bars."), ("The chart has ", 0, " bars."))
HIGHEST: Templates = (("The highest bar is ", 0, "."), ("The bar with the highest value is ", 0, "."))
LOWEST: Templates = (("The lowest bar is ", 0, "."), ("The bar with the lowest value is ", 0, "."))


def say_value(letter: str, true: int, rng: Random, stated: int) -> Step:
    """`Bar C shows 14.`"""
    return fill(rng, VALUE, (letter, Claim(str(stated), str(true))), "read")


def bar_chart(rng: Random, variation: Variation) -> Scene:
    """A chart of 3 to 5 bars with different values; asks for a sum or a difference of two of them."""
    n_bars = rng.randint(3, 5)
    letters = rng.sample(LETTERS, n_bars)
    if rng.random() < 0.5:
        letters.sort()
    values = rng.sample(range(LOW, HIGH + 1), n_bars)
    image, regions = _draw(rng, variation, letters, values)
    facts, weights = _facts(letters, values)
    pair = pick_pair(rng, values, variation.held_out)
    problems = tuple(_problems(letters, values, *pair, facts[n_bars:])) if pair else ()
    return Scene("bars", image, regions, facts, weights, problems)


def _draw(
    rng: Random, variation: Variation, letters: list[str], values: list[int]
) -> tuple[Image.Image, tuple[Region, ...]]:
    """The image, and one region a bar: from above its value to below its letter."""
    width, height = image_size(rng, variation.shape)
    canvas = Canvas(width, height, Look.draw(rng, variation.held_out))
    unit = min(height, 1.15 * width)
    type_px = rng.uniform(0.115, 0.135) * unit
    left, right = 0.03 * width, 0.97 * width
    slot = (right - left) / len(values)
    bottom, top = height - 1.5 * type_px, 2.0 * type_px
    scale = (bottom - top) / max(HIGH if rng.random() < 0.3 else max(values), 1)
    one_colour = rng.random() < 0.5
    order = sorted(values, reverse=True)
    regions = []
    for index, (letter, value) in enumerate(zip(letters, values, strict=True)):
        centre = left + (index + 0.5) * slot
        bar_top = bottom - max(2.0, scale * value)
        half = slot * rng.uniform(0.25, 0.36)
        colour = canvas.look.palette.bars[0 if one_colour else index % 3]
        canvas.draw.rectangle(
            (centre - half, bar_top, centre + half, bottom), fill=colour, outline=canvas.look.palette.ink
        )
        canvas.text(str(value), (centre, bar_top - 0.72 * type_px), type_px, 0.94 * slot)
        canvas.text(letter, (centre, bottom + 0.78 * type_px), type_px)
        attributes = {
            "name": letter,
            "tens": str(value // 10) if value >= 10 else "blank",
            "ones": str(value % 10),
            "count_a": str(len(values)),
            "count_b": str(order.index(value) + 1),
        }
        box = ((centre - slot / 2) / width, (bar_top - 1.5 * type_px) / height, (centre + slot / 2) / width, 1.0)
        regions.append(Region(box, attributes, 0.7))
        focus = (box[0], box[1], box[2], (bar_top - 0.1 * type_px) / height)
        regions.append(Region(focus, attributes, 2.0))
    canvas.draw.line((left, bottom, right, bottom), fill=canvas.look.palette.ink, width=canvas.look.line_px)
    return canvas.finish(rng), tuple(regions)


def _facts(letters: list[str], values: list[int]) -> tuple[tuple[FactMaker, ...], tuple[float, ...]]:
    """Statements: one a bar about its value, then the number of bars, the highest and the lowest."""

    def value_fact(letter: str, true: int) -> FactMaker:
        return lambda rng, wrong: say_value(letter, true, rng, misread(rng, true, LOW, HIGH) if wrong else true)

    def count_fact(rng: Random, wrong: bool) -> Step:
        true = len(values)
        stated = rng.choice([n for n in (3, 4, 5) if n != true]) if wrong else true
        return fill(rng, COUNT, (Claim(str(stated), str(true)),), "read")

    def extreme_fact(wordings: Templates, true: str) -> FactMaker:
        others = [letter for letter in letters if letter != true]
        return lambda rng, wrong: fill(rng, wordings, (Claim(rng.choice(others) if wrong else true, true),), "read")

    highest, lowest = letters[values.index(max(values))], letters[values.index(min(values))]
    facts = [value_fact(letter, value) for letter, value in zip(letters, values, strict=True)]
    extra = (count_fact, extreme_fact(HIGHEST, highest), extreme_fact(LOWEST, lowest))
    return (*facts, *extra), (*(2.0 for _ in facts), 0.7, 1.0, 1.0)


def _problems(letters: list[str], values: list[int], i: int, j: int, extras: tuple[FactMaker, ...]) -> list[Problem]:
    """The questions about bars i and j: their sum, and their difference if i is the higher one."""

    def reading(index: int) -> Reading:
        true = values[index]
        return Reading(
            lambda rng, stated: say_value(letters[index], true, rng, stated),
            true,
            lambda rng: misread(rng, true, LOW, HIGH),
        )

    readings = (reading(i), reading(j))
    return sum_and_difference(
        readings,
        f"What is the total of bars {letters[i]} and {letters[j]}?",
        f"How much more is bar {letters[i]} than bar {letters[j]}?",
        extras,
    )
