"""Angle figures: a right angle or a straight angle split in two, and triangles with two known angles.

One angle is marked with a number's name (1 to 4) and asked for: `Find m \\angle 3.`; the others show their size in
degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from PIL import Image

from .drawing import Canvas, Look, image_size
from .solving import Reading, Recipe, Templates, fill, held_out_pair, misread, problem
from .types import LETTERS, Claim, FactMaker, Problem, Region, Scene, Step, Variation

Point = tuple[float, float]

PART: Templates = (
    ("The marked angle is ", 0, "°."),
    ("One part is ", 0, "°."),
    ("The picture shows an angle of ", 0, "°."),
    ("The known angle is ", 0, "°."),
)
WHOLE: Templates = (
    ("The two angles form a ", 0, " angle."),
    ("Together they make a ", 0, " angle."),
    ("A ", 0, " angle is split in two."),
)
CORNER: Templates = (
    ("Angle ", 0, " is ", 1, "°."),
    ("The angle at ", 0, " is ", 1, "°."),
    ("At corner ", 0, " we read ", 1, "°."),
)
SUM: Templates = (("The angles of a triangle add up to ", 0, "°."), ("In a triangle the angles sum to ", 0, "°."))
ANSWER: Templates = (("So m \\angle ", 0, " = ", 1, "°."), ("Angle ", 0, " is ", 1, "°."), ("The answer is ", 1, "°."))

SPLIT_RANGES = {"right": (15, 75), "straight": (20, 88)}
WHOLE_DEGREES = {"right": 90, "straight": 180}
CORNER_RANGE = (35, 85)
HEADROOM = 1.35
"""Room for labels around a figure, in label heights."""


@dataclass(frozen=True)
class Label:
    """Text of a figure at a point (figure units), what it means, and whether it is a region of its own."""

    text: str
    point: Point
    attributes: dict[str, str] | None = None


def angle_figure(rng: Random, variation: Variation) -> Scene:
    """One of the three kinds of figure, with its question."""
    kind = rng.choices(("right", "straight", "triangle"), (40, 25, 35))[0]
    return _triangle(rng, variation) if kind == "triangle" else split_angle(rng, variation, kind)


def split_angle(rng: Random, variation: Variation, kind: str) -> Scene:
    """A right or straight angle split into a known angle and the one asked for."""
    low, high = SPLIT_RANGES[kind]
    while True:
        known, name = rng.randint(low, high), rng.randint(1, 4)
        if held_out_pair(known, name) == variation.held_out:
            break
    return build_split_angle(rng, variation, kind, known, name)


def build_split_angle(rng: Random, variation: Variation, kind: str, known: int, name: int) -> Scene:
    """As `split_angle`, with the numbers given (known in degrees)."""
    whole = WHOLE_DEGREES[kind]
    start = math.radians(rng.choice((0, 0, 90, 180, 270)) + rng.uniform(-12, 12))
    known_first = rng.random() < 0.5
    split = start + math.radians(known if known_first else whole - known)
    end = start + math.radians(whole)
    lines = [((0.0, 0.0), _polar(angle, 1.0)) for angle in (start, split, end)]
    middles = ((start + split) / 2, (split + end) / 2)
    known_at, asked_at = middles if known_first else middles[::-1]
    known_label = Label(f"{known}°", _polar(known_at, _label_distance(known)), _number_attributes(known, kind))
    asked_label = Label(str(name), _polar(asked_at, _label_distance(whole - known)), {"ones": str(name)})
    image, regions = _draw(rng, variation, lines, [known_label, asked_label])

    low, high = SPLIT_RANGES[kind]

    def say_known(rng: Random, stated: int) -> Step:
        return fill(rng, PART, (Claim(str(stated), str(known)),), "read")

    def say_whole(rng: Random, wrong: bool) -> Step:
        other = "straight" if kind == "right" else "right"
        return fill(rng, WHOLE, (Claim(other if wrong else kind, kind),), "method")

    def known_fact(rng: Random, wrong: bool) -> Step:
        return say_known(rng, misread(rng, known, low, high) if wrong else known)

    recipe = Recipe(
        question=f"Find m \\angle {name}.",
        readings=(Reading(say_known, known, lambda rng: misread(rng, known, low, high)),),
        combine=lambda values: [(f"{whole} - {values[0]}", whole - values[0])],
        swap=lambda values: [(f"{270 - whole} - {values[0]}", 270 - whole - values[0])],
        conclude=_say_answer(name),
        method=say_whole,
        always_method=True,
        accept=lambda values: values[0] < 90,
    )
    return Scene("angles", image, regions, (known_fact, say_whole), (1.0, 0.6), (problem(recipe),), {"kind": kind})


def _triangle(rng: Random, variation: Variation) -> Scene:
    """A triangle with lettered corners, two known angles and a third asked for."""
    low, high = CORNER_RANGE
    while True:
        first, second, name = rng.randint(low, high), rng.randint(low, high), rng.randint(1, 4)
        if 40 <= 180 - first - second <= 95 and held_out_pair(first, second) == variation.held_out:
            break
    angles = (first, second, 180 - first - second)
    corners = _triangle_corners(angles, rng.uniform(0, 2 * math.pi))
    letters = rng.sample(LETTERS, 2)
    centre = (sum(x for x, _ in corners) / 3, sum(y for _, y in corners) / 3)
    labels = []
    for index, (corner, size) in enumerate(zip(corners, angles, strict=True)):
        share = 0.42 + 0.12 * (70 - size) / 35
        inside = (corner[0] + share * (centre[0] - corner[0]), corner[1] + share * (centre[1] - corner[1]))
        if index == 2:
            labels.append(Label(str(name), inside, {"ones": str(name)}))
            continue
        outside = (corner[0] - 0.2 * (centre[0] - corner[0]), corner[1] - 0.2 * (centre[1] - corner[1]))
        attributes = {"name": letters[index]} | _number_attributes(size, "three")
        labels += [Label(f"{size}°", inside, attributes), Label(letters[index], outside, attributes)]
    lines = [(corners[i], corners[(i + 1) % 3]) for i in range(3)]
    roomy = "large" if variation.shape == "large" or (variation.shape == "mixed" and rng.random() < 0.2) else "tile"
    image, regions = _draw(rng, replace(variation, shape=roomy), lines, labels)
    return _triangle_scene(image, regions, letters, (first, second), name)


def _triangle_scene(
    image: Image.Image, regions: tuple[Region, ...], letters: Sequence[str], known: tuple[int, int], name: int
) -> Scene:
    """The statements and the problem of a triangle."""
    low, high = CORNER_RANGE

    def reading(index: int) -> Reading:
        true = known[index]

        def say(rng: Random, stated: int) -> Step:
            return fill(rng, CORNER, (letters[index], Claim(str(stated), str(true))), "read")

        return Reading(say, true, lambda rng: misread(rng, true, low, high))

    def fact(index: int) -> FactMaker:
        item = reading(index)
        return lambda rng, wrong: item.say(rng, item.misread(rng) if wrong else item.true)

    def say_sum(rng: Random, wrong: bool) -> Step:
        return fill(rng, SUM, (Claim(rng.choice(("90", "360")) if wrong else "180", "180"),), "method")

    def combine(values: Sequence[int]) -> list[tuple[str, int]]:
        both = values[0] + values[1]
        return [(f"{values[0]} + {values[1]}", both), (f"180 - {both}", 180 - both)]

    recipe = Recipe(
        question=f"Find m \\angle {name}.",
        readings=(reading(0), reading(1)),
        combine=combine,
        conclude=_say_answer(name),
        method=say_sum,
        accept=lambda values: values[0] + values[1] < 170,
    )
    problems: tuple[Problem, ...] = (problem(recipe),)
    return Scene("angles", image, regions, (fact(0), fact(1)), (1.0, 1.0), problems, {"kind": "triangle"})


def _say_answer(name: int) -> Callable[[Random, Claim], Step]:
    """Final statements about the angle asked for."""
    return lambda rng, claim: fill(rng, ANSWER, (str(name), claim), "conclude")


def _number_attributes(value: int, kind: str) -> dict[str, str]:
    """Dense targets of a label with degrees."""
    return {"second": kind, "tens": str(value // 10), "ones": str(value % 10)}


def _polar(angle: float, radius: float) -> Point:
    """A point of the figure; y grows downwards, angles (radians) grow anticlockwise."""
    return radius * math.cos(angle), -radius * math.sin(angle)


def _label_distance(degrees: float) -> float:
    """How far from the vertex a label has room between two rays of length 1 that are `degrees` apart."""
    return min(1.02, max(0.5, 0.30 / math.tan(math.radians(min(degrees, 100)) / 2)))


def _triangle_corners(angles: tuple[int, int, int], turn: float) -> tuple[Point, Point, Point]:
    """Corners of a triangle with these angles (degrees), turned by `turn` radians."""
    first, second, third = (math.radians(angle) for angle in angles)
    base = math.sin(third)
    apex = math.sin(second) * math.cos(first), -math.sin(second) * math.sin(first)
    cosine, sine = math.cos(turn), math.sin(turn)
    corners = [(x * cosine - y * sine, x * sine + y * cosine) for x, y in ((0.0, 0.0), (base, 0.0), apex)]
    return corners[0], corners[1], corners[2]


def _draw(
    rng: Random, variation: Variation, lines: Sequence[tuple[Point, Point]], labels: Sequence[Label]
) -> tuple[Image.Image, tuple[Region, ...]]:
    """The figure fitted into an image, and one region a label that has attributes."""
    width, height = image_size(rng, variation.shape)
    canvas = Canvas(width, height, Look.draw(rng, variation.held_out))
    type_px = rng.uniform(0.115, 0.135) * min(width, height)
    points = [point for line in lines for point in line] + [label.point for label in labels]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    margin = HEADROOM * type_px / 1.6
    scale = min((width - 2 * margin) / (right - left), (height - 2 * margin) / (bottom - top))
    slack_x, slack_y = width - scale * (right - left), height - scale * (bottom - top)
    shift_x = margin + rng.random() * (slack_x - 2 * margin) - scale * left
    shift_y = margin + rng.random() * (slack_y - 2 * margin) - scale * top

    def place(point: Point) -> Point:
        return shift_x + scale * point[0], shift_y + scale * point[1]

    for start, end in lines:
        canvas.draw.line((*place(start), *place(end)), fill=canvas.look.palette.ink, width=canvas.look.line_px)
    regions = []
    for label in labels:
        x, y = place(label.point)
        ink_width, ink_height = canvas.text(label.text, (x, y), type_px)
        if label.attributes is not None:
            half_x, half_y = ink_width / 2 + 4, ink_height / 2 + 4
            box = ((x - half_x) / width, (y - half_y) / height, (x + half_x) / width, (y + half_y) / height)
            regions.append(Region(box, label.attributes, 3.0))
    return canvas.finish(rng), tuple(regions)
