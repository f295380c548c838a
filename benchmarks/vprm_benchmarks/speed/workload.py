"""A best-of-N request of given size: an image of T tiles, a question, N candidates of S steps of K tokens each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vprm_benchmarks.speed.photo import photo
from vprm_runtime.errors import InputError

QUESTION = "In the figure, two lines cut the sides of the triangle. How large is the angle marked with a letter?"
_WORDS = "angle lines parallel because equal half turn number side the of is we so".split()  # noqa: SIM905


@dataclass(frozen=True)
class WorkloadSize:
    """What is asked for. `tiles` includes the thumbnail: 1, or 3 and more."""

    tiles: int
    candidates: int
    steps: int
    step_tokens: int


@dataclass(frozen=True)
class Workload:
    """The request. `max_tiles` is the limit under which the image has the tiles that were asked for."""

    image: Image.Image
    max_tiles: int
    question: str
    candidates: tuple[tuple[str, ...], ...]


def workload(size: WorkloadSize, tile_px: int, count_tokens: Callable[[str], int]) -> Workload:
    """The same request for the same sizes and tokenizer. Raises InputError if no image has that many tiles.

    `count_tokens` counts a step's own tokens; a step has `step_tokens` of them, or as few more as its last word takes.
    """
    columns, rows = _grid(size.tiles)
    random = np.random.default_rng(7)
    candidates = tuple(
        tuple(_step(random, size.step_tokens, count_tokens) for _ in range(size.steps)) for _ in range(size.candidates)
    )
    return Workload(photo(columns * tile_px, rows * tile_px), columns * rows, QUESTION, candidates)


def _grid(tiles: int) -> tuple[int, int]:
    """(columns, rows) of the widest grid that is no wider than 4 to 3, or else the squarest."""
    if tiles == 1:
        return 1, 1
    area = tiles - 1
    if area < 2:
        raise InputError("no image has 2 tiles: two in a row get a thumbnail; use 1, or 3 and more")
    columns = min((n for n in range(1, area + 1) if area % n == 0), key=lambda n: abs(np.log(n * n / area / (4 / 3))))
    return columns, area // columns


def _step(random: np.random.Generator, tokens: int, count_tokens: Callable[[str], int]) -> str:
    words = [str(random.choice(_WORDS))]
    while count_tokens(" ".join(words)) < tokens:
        words.append(str(random.choice(_WORDS)))
    return " ".join(words)
