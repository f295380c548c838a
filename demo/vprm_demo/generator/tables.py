"""Tables of numbers with lettered rows and columns."""

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
from .types import COLUMNS, LETTERS, Claim, FactMaker, Problem, Region, Scene, Step, Variation

LOW, HIGH = 1, 40
Cell = tuple[str, str]

VALUE: Templates = (
    ("Row ", 0, ", column ", 1, " is ", 2, "."),
    ("Row ", 0, ", column ", 1, " shows ", 2, "."),
    ("The number in row ", 0, ", column ", 1, " is ", 2, "."),
    ("In row ", 0, " and column ", 1, " we find ", 2, "."),
)
ROWS: Templates = (("The table has ", 0, " rows."), ("There are ", 0, " rows."))


def table(rng: Random, variation: Variation) -> Scene:
    """A table of 2 to 3 rows and 2 to 3 columns; asks for a sum or a difference of two cells."""
    rows = sorted(rng.sample(LETTERS[:5], rng.randint(2, 3)))
    columns = list(COLUMNS[: rng.randint(2, 3)])
    values = {(row, column): rng.randint(LOW, HIGH) for row in rows for column in columns}
    image, regions = _draw(rng, variation, rows, columns, values)
    facts, weights = _facts(rows, values)
    cells = list(values)
    pair = pick_pair(rng, list(values.values()), variation.held_out)
    problems = tuple(_problems(values, cells[pair[0]], cells[pair[1]], facts[len(cells) :])) if pair else ()
    return Scene("tables", image, regions, facts, weights, problems)


def _draw(
    rng: Random, variation: Variation, rows: list[str], columns: list[str], values: dict[Cell, int]
) -> tuple[Image.Image, tuple[Region, ...]]:
    """The image, and one region a cell."""
    width, height = image_size(rng, variation.shape)
    canvas = Canvas(width, height, Look.draw(rng, variation.held_out))
    head_width = width * rng.uniform(0.16, 0.2)
    head_height = height * rng.uniform(0.16, 0.2)
    margin = 0.015 * min(width, height)
    step_x = (width - head_width - margin) / len(columns)
    step_y = (height - head_height - margin) / len(rows)
    type_px = rng.uniform(0.115, 0.135) * min(height, 1.15 * width)
    ink, line_px = canvas.look.palette.ink, max(1, canvas.look.line_px - 1)
    if rng.random() < 0.6:
        shade = canvas.look.palette.bars[0]
        tint = tuple((3 * back + front) // 4 for back, front in zip(canvas.look.palette.background, shade, strict=True))
        canvas.draw.rectangle((0, 0, width, head_height), fill=tint)
        canvas.draw.rectangle((0, 0, head_width, height), fill=tint)
    for index in range(len(columns) + 1):
        x = head_width + index * step_x
        canvas.draw.line((x, 0, x, height), fill=ink, width=line_px)
    for index in range(len(rows) + 1):
        y = head_height + index * step_y
        canvas.draw.line((0, y, width, y), fill=ink, width=line_px)
    for index, column in enumerate(columns):
        canvas.text(column, (head_width + (index + 0.5) * step_x, head_height / 2), type_px)
    regions = []
    for r, row in enumerate(rows):
        y = head_height + (r + 0.5) * step_y
        canvas.text(row, (head_width / 2, y), type_px)
        for c, column in enumerate(columns):
            x = head_width + (c + 0.5) * step_x
            value = values[row, column]
            offset = (rng.uniform(-0.06, 0.06) * step_x, rng.uniform(-0.08, 0.08) * step_y)
            canvas.text(str(value), (x + offset[0], y + offset[1]), type_px, 0.84 * step_x)
            attributes = {
                "name": row,
                "second": column,
                "tens": str(value // 10) if value >= 10 else "blank",
                "ones": str(value % 10),
                "count_a": str(len(rows)),
            }
            box = (
                (x - step_x / 2) / width,
                (y - step_y / 2) / height,
                (x + step_x / 2) / width,
                (y + step_y / 2) / height,
            )
            regions.append(Region(box, attributes))
    return canvas.finish(rng), tuple(regions)


def say_value(cell: Cell, true: int, rng: Random, stated: int) -> Step:
    """`Row B, column X is 14.`"""
    return fill(rng, VALUE, (cell[0], cell[1], Claim(str(stated), str(true))), "read")


def _facts(rows: list[str], values: dict[Cell, int]) -> tuple[tuple[FactMaker, ...], tuple[float, ...]]:
    """Statements: one a cell, then the number of rows."""

    def value_fact(cell: Cell, true: int) -> FactMaker:
        return lambda rng, wrong: say_value(cell, true, rng, misread(rng, true, LOW, HIGH) if wrong else true)

    def rows_fact(rng: Random, wrong: bool) -> Step:
        true = len(rows)
        return fill(rng, ROWS, (Claim(str(5 - true if wrong else true), str(true)),), "read")

    facts = [value_fact(cell, value) for cell, value in values.items()]
    return (*facts, rows_fact), (*(1.0 for _ in facts), 0.4)


def _problems(values: dict[Cell, int], first: Cell, second: Cell, extras: tuple[FactMaker, ...]) -> list[Problem]:
    """The questions about two cells: their sum, and their difference if the first is the larger."""

    def reading(cell: Cell) -> Reading:
        true = values[cell]
        return Reading(
            lambda rng, stated: say_value(cell, true, rng, stated), true, lambda rng: misread(rng, true, LOW, HIGH)
        )

    readings = (reading(first), reading(second))
    names = [f"row {cell[0]}, column {cell[1]}" for cell in (first, second)]
    return sum_and_difference(
        readings,
        f"What is the total of {names[0]} and {names[1]}?",
        f"How much more is {names[0]} than {names[1]}?",
        extras,
    )
