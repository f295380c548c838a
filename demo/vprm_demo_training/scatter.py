"""Images for the vision stage alone: numbers, letters and shapes anywhere, many to an image."""

from __future__ import annotations

from random import Random

from vprm_demo.generator.drawing import Canvas, Look, image_size
from vprm_demo.generator.shapes import draw_shape
from vprm_demo.generator.types import COLOUR_NAMES, COLUMNS, LETTERS, SHAPE_NAMES, Region, Scene


def scatter(rng: Random) -> Scene:
    """A raster of 3 x 3 to 4 x 5 places, most of them holding something."""
    width, height = image_size(rng, "tile")
    canvas = Canvas(width, height, Look.draw(rng, held_out=False))
    columns, rows = rng.randint(3, 4), rng.randint(3, 5)
    pitch_x, pitch_y = width / columns, height / rows
    type_px = rng.uniform(0.11, 0.14) * min(width, height)
    regions = []
    for place in range(columns * rows):
        kind = rng.choices(("number", "degrees", "letter", "shape", "nothing"), (50, 12, 18, 12, 8))[0]
        x = (place % columns + 0.5) * pitch_x + rng.uniform(-0.15, 0.15) * pitch_x
        y = (place // columns + 0.5) * pitch_y + rng.uniform(-0.2, 0.2) * pitch_y
        if kind == "nothing":
            continue
        if kind == "shape":
            colour, shape = rng.choice(COLOUR_NAMES), rng.choice(SHAPE_NAMES)
            radius = rng.uniform(0.3, 0.44) * min(pitch_x, pitch_y)
            draw_shape(
                canvas,
                shape,
                (x, y),
                radius,
                canvas.look.palette.named[COLOUR_NAMES.index(colour)],
                rng.uniform(-15, 15),
            )
            half, attributes = (radius, radius), {"name": colour, "second": shape}
        else:
            if kind == "letter":
                text = rng.choice(LETTERS + COLUMNS)
                attributes = {"second" if text in COLUMNS else "name": text}
            else:
                value = rng.randint(0, 99) if rng.random() < 0.85 else rng.randint(0, 9)
                text = f"{value}°" if kind == "degrees" else str(value)
                attributes = {"tens": str(value // 10) if value >= 10 else "blank", "ones": str(value % 10)}
            ink = canvas.text(text, (x, y), type_px, 0.96 * pitch_x)
            half = ink[0] / 2, ink[1] / 2
        box = ((x - half[0]) / width, (y - half[1]) / height, (x + half[0]) / width, (y + half[1]) / height)
        regions.append(Region(box, attributes))
    return Scene("scatter", canvas.finish(rng), tuple(regions), (), (), ())
