"""Images with questions, step-by-step solutions and labels, deterministic by seed. Needs NumPy and Pillow only."""

from __future__ import annotations

from random import Random

from .angles import angle_figure
from .bars import bar_chart
from .shapes import shapes
from .tables import table
from .types import Scene, Variation

FAMILIES = {"bars": bar_chart, "angles": angle_figure, "shapes": shapes, "tables": table}

__all__ = ["FAMILIES", "Scene", "Variation", "scene"]


def scene(rng: Random, variation: Variation) -> Scene:
    """An image of a family drawn at random from `variation.families`, with at least one problem."""
    make = FAMILIES[rng.choice(variation.families)]
    while True:
        made = make(rng, variation)
        if made.problems:
            return made
