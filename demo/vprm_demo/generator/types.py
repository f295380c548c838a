"""Values that the generator passes around: claims, steps, problems and images with their facts.

A step's label is derived, never written by hand: a step is text with *claims* in it, each holding what is stated and
what is true, and the step is wrong exactly if some claim states something else than the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from PIL import Image

GENERATOR_VERSION = "1"


@dataclass(frozen=True)
class Claim:
    """A word or number inside a step that can be false; `true` is what should stand there."""

    stated: str
    true: str


Segment = str | Claim


@dataclass(frozen=True)
class Step:
    """One step of a solution. `kind` is one of filler, read, method, compute, conclude."""

    segments: tuple[Segment, ...]
    kind: str

    @property
    def text(self) -> str:
        """The step as a policy model would have written it."""
        return "".join(part.stated if isinstance(part, Claim) else part for part in self.segments)

    @property
    def label(self) -> int:
        """1 right, -1 wrong, 0 says nothing that could be wrong (VisualProcessBench's values)."""
        claims = [part for part in self.segments if isinstance(part, Claim)]
        if not claims:
            return 0
        return 1 if all(claim.stated == claim.true for claim in claims) else -1


@dataclass(frozen=True)
class Region:
    """A box of an image and what can be seen there: the dense targets of the vision stage.

    `box` is (left, top, right, bottom) as fractions of the image's width and height. `attributes` maps a head's
    name (see `ATTRIBUTE_CLASSES`) to a class name of that head; `weight` is what a cell of it counts in the loss.
    """

    box: tuple[float, float, float, float]
    attributes: dict[str, str]
    weight: float = 1.0


LETTERS = "ABCDEFGH"
COLUMNS = "XYZ"
COLOUR_NAMES = ("red", "blue", "green", "yellow", "purple")
SHAPE_NAMES = ("circle", "square", "triangle", "star")
_DIGITS = tuple("0123456789")

ATTRIBUTE_CLASSES: dict[str, tuple[str, ...]] = {
    "name": (*LETTERS, *COLOUR_NAMES),
    "second": (*COLUMNS, *SHAPE_NAMES, "right", "straight", "three"),
    "tens": ("blank", *_DIGITS),
    "ones": _DIGITS,
    "count_a": _DIGITS,
    "count_b": _DIGITS,
    "count_c": _DIGITS,
}
"""Classes per dense head; class 0 of every head is "nothing here", so a head has one class more than listed."""

FactMaker = Callable[[Random, bool], Step]
"""Makes a statement about the image: `fact(rng, wrong)`."""


@dataclass(frozen=True)
class Solution:
    """Steps, the answer they reach, and whether that answer is right."""

    steps: tuple[Step, ...]
    answer: str
    correct: bool


@dataclass(frozen=True)
class Problem:
    """A question about an image. `solve(rng, n_errors)` writes a solution with that many mistakes (0 = a right
    one)."""

    question: str
    answer: str
    solve: Callable[[Random, int], Solution]


@dataclass(frozen=True)
class Scene:
    """An image with everything that is known about it."""

    family: str
    image: Image.Image
    regions: tuple[Region, ...]
    facts: tuple[FactMaker, ...]
    weights: tuple[float, ...]
    problems: tuple[Problem, ...]
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Variation:
    """What kind of images to draw. `held_out` uses the font style, palette and number combinations kept out of
    training.

    `shape` is "tile" (one tile), "wide", "tall" (two tiles and a thumbnail), "large" (2 x 2 tiles and a thumbnail) or
    "mixed".
    """

    held_out: bool = False
    shape: str = "mixed"
    families: tuple[str, ...] = ("bars", "angles", "shapes", "tables")
