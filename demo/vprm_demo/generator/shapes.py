"""Coloured shapes to count."""

from __future__ import annotations

import math
from random import Random

from PIL import Image

from .drawing import Canvas, Colour, Look, image_size
from .solving import (
    Reading,
    Templates,
    fill,
    pick_pair,
    sum_and_difference,
)
from .types import COLOUR_NAMES, SHAPE_NAMES, Claim, FactMaker, Problem, Region, Scene, Step, Variation

COUNT: Templates = (
    ("The number of ", 0, " is ", 1, "."),
    ("Counting the ", 0, " gives ", 1, "."),
    ("For the ", 0, " we count ", 1, "."),
)
TOTAL: Templates = (("The number of all shapes is ", 0, "."), ("In all we count ", 0, " shapes."))


def _counts(rng: Random) -> list[int]:
    """How many of each kind: two kinds of 1 to 4, or three of 1 to 3 (at most 8 together)."""
    return [rng.randint(1, 4) for _ in range(2)] if rng.random() < 0.6 else [rng.randint(1, 3) for _ in range(3)]


def shapes(rng: Random, variation: Variation) -> Scene:
    """2 to 8 shapes of two or three colours and kinds; asks for a sum or a difference of two counts."""
    while True:
        by_colour, by_shape = _counts(rng), _counts(rng)
        if sum(by_colour) == sum(by_shape) <= 8:
            break
    colours = dict(zip(rng.sample(COLOUR_NAMES, len(by_colour)), by_colour, strict=True))
    kinds = dict(zip(rng.sample(SHAPE_NAMES, len(by_shape)), by_shape, strict=True))
    colour_list = [name for name, n in colours.items() for _ in range(n)]
    kind_list = [name for name, n in kinds.items() for _ in range(n)]
    rng.shuffle(colour_list)
    image, regions = _draw(rng, variation, list(zip(colour_list, kind_list, strict=True)), colours, kinds)

    counts = {f"{name} shapes": n for name, n in colours.items()} | {f"{name}s": n for name, n in kinds.items()}
    total = len(colour_list)
    facts: list[FactMaker] = [_count_fact(name, n) for name, n in counts.items()]
    facts.append(_total_fact(total))
    group = rng.choice((colours, kinds))
    pair = pick_pair(rng, list(group.values()), variation.held_out)
    problems: tuple[Problem, ...] = ()
    if pair:
        first, second = (list(group)[index] for index in pair)
        problems = tuple(_problems(_plural(first), group[first], _plural(second), group[second], tuple(facts)))
    return Scene("shapes", image, regions, tuple(facts), (*(1.0 for _ in counts), 0.5), problems)


def _plural(name: str) -> str:
    return f"{name} shapes" if name in COLOUR_NAMES else f"{name}s"


def _miscount(rng: Random, true: int) -> int:
    """Another count, distributed like the right ones."""
    while True:
        stated = rng.choice(_counts(rng))
        if stated != true:
            return stated


def _say_count(name: str, true: int, rng: Random, stated: int) -> Step:
    return fill(rng, COUNT, (name, Claim(str(stated), str(true))), "read")


def _count_fact(name: str, true: int) -> FactMaker:
    return lambda rng, wrong: _say_count(name, true, rng, _miscount(rng, true) if wrong else true)


def _total_fact(true: int) -> FactMaker:
    def say(rng: Random, wrong: bool) -> Step:
        stated = true
        while wrong and (stated == true or stated > 8):
            stated = sum(_counts(rng))
        return fill(rng, TOTAL, (Claim(str(stated), str(true)),), "read")

    return say


def _draw(
    rng: Random, variation: Variation, objects: list[tuple[str, str]], colours: dict[str, int], kinds: dict[str, int]
) -> tuple[Image.Image, tuple[Region, ...]]:
    """The image, and one region a shape; shapes stand in different cells of a 3 x 3 raster."""
    width, height = image_size(rng, variation.shape)
    canvas = Canvas(width, height, Look.draw(rng, variation.held_out))
    regions = []
    slots = rng.sample(range(9), len(objects))
    pitch_x, pitch_y = width / 3, height / 3
    for (colour, kind), slot in zip(objects, slots, strict=True):
        radius = rng.uniform(0.27, 0.42) * min(pitch_x, pitch_y)
        x = (slot % 3 + 0.5) * pitch_x + rng.uniform(-1, 1) * (pitch_x / 2 - radius) * 0.8
        y = (slot // 3 + 0.5) * pitch_y + rng.uniform(-1, 1) * (pitch_y / 2 - radius) * 0.8
        fill_colour = canvas.look.palette.named[COLOUR_NAMES.index(colour)]
        draw_shape(canvas, kind, (x, y), radius, fill_colour, rng.uniform(-15, 15))
        attributes = {
            "name": colour,
            "second": kind,
            "count_a": str(colours[colour]),
            "count_b": str(kinds[kind]),
            "count_c": str(len(objects)),
        }
        box = ((x - radius) / width, (y - radius) / height, (x + radius) / width, (y + radius) / height)
        regions.append(Region(box, attributes, 1.5))
    return canvas.finish(rng), tuple(regions)


def draw_shape(
    canvas: Canvas, kind: str, centre: tuple[float, float], radius: float, fill_colour: Colour, turn: float
) -> None:
    """One filled, outlined shape; `turn` in degrees."""
    x, y = centre
    ink = canvas.look.palette.ink
    if kind == "circle":
        canvas.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill_colour, outline=ink)
        return
    corners = {"square": 4, "triangle": 3, "star": 10}[kind]
    offset = {"square": 45.0, "triangle": -90.0, "star": -90.0}[kind] + turn
    points = []
    for index in range(corners):
        reach = radius * (0.45 if kind == "star" and index % 2 else 1.08)
        angle = math.radians(offset + 360 * index / corners)
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    canvas.draw.polygon(points, fill=fill_colour, outline=ink)


def _problems(first: str, n_first: int, second: str, n_second: int, extras: tuple[FactMaker, ...]) -> list[Problem]:
    """The questions about two counts: their sum, and their difference if the first is the larger."""

    def reading(name: str, true: int) -> Reading:
        return Reading(lambda rng, stated: _say_count(name, true, rng, stated), true, lambda rng: _miscount(rng, true))

    readings = (reading(first, n_first), reading(second, n_second))
    return sum_and_difference(
        readings,
        f"How many {first} and {second} are there?",
        f"How many more {first} than {second} are there?",
        extras,
    )
