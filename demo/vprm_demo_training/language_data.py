"""Batches for the language stages: images with statements (each a turn of its own) or with whole solutions.

A *statement* row asks an image's question and then lists independent statements, right or wrong with equal chance; a
*solution* row is what the held-out rows are like. Rows of a chunk are sorted by length, so that a batch is padded
little and few shapes occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from vprm_demo.generator import Variation, scene
from vprm_demo.generator.solving import COMPUTE_WORDINGS, fill, slip
from vprm_demo.generator.tiling import IMAGE_SIZE_PX, tiles_from_image
from vprm_demo.generator.types import Claim, Scene, Step
from vprm_demo.rows import n_errors

from .dense import targets_from_regions
from .prompt import Prompt, Tokenizer

STATEMENT_TOKENS = 256
LENGTHS = (192, 256, 384, 512)
"""Lengths that batches are padded to, in tokens."""


@dataclass(frozen=True)
class Mixture:
    """What a stage's rows are: the share of solution rows, and the shape of images."""

    solutions: float
    shape: str
    arithmetic: float = 0.15


@dataclass(frozen=True)
class Row:
    """A tokenised row with its tiles uint8 [n, S, S, 3] and dense targets of the whole image uint8 [cells, heads +
    1]."""

    prompt: Prompt
    tiles: np.ndarray
    dense: np.ndarray
    family: str


@dataclass(frozen=True)
class Batch:
    """Arrays of a batch; positions are flat indices into [B * T], weights are 0 if padded."""

    tiles: np.ndarray  # uint8 [B * n_tiles, S, S, 3]
    n_tiles: int
    ids: np.ndarray  # int64 [B, T]
    image_slots: np.ndarray  # int64 [B * n_tiles * tokens_per_tile]
    score_positions: np.ndarray  # int64 [K]
    score_labels: np.ndarray  # int64 [K], 1 right, 0 wrong
    reading_positions: np.ndarray  # int64 [R]
    reading_targets: np.ndarray  # int64 [R]
    verdict_positions: np.ndarray  # int64 [V]
    verdict_labels: np.ndarray  # int64 [V], 1 contradicts
    dense: np.ndarray  # uint8 [B, cells, heads + 1]


def arithmetic_statement(rng: Random, wrong: bool) -> Step:
    """A line of arithmetic of the kinds that occur in solutions."""
    kind = rng.choice(("plus", "plus", "minus", "minus", "right", "straight", "three"))
    if kind == "plus":
        high = rng.choice((9, 29, 40, 85))
        first, second = rng.randint(1, high), rng.randint(1, high)
        text, true = f"{first} + {second}", first + second
    elif kind == "minus":
        second, first = sorted(rng.sample(range(1, rng.choice((10, 30, 41))), 2))
        text, true = f"{first} - {second}", first - second
    elif kind == "right":
        known = rng.randint(10, 85)
        text, true = f"90 - {known}", 90 - known
    elif kind == "straight":
        known = rng.randint(10, 95)
        text, true = f"180 - {known}", 180 - known
    else:
        both = rng.randint(70, 170)
        text, true = f"180 - {both}", 180 - both
    stated = slip(rng, true) if wrong else true
    return fill(rng, COMPUTE_WORDINGS, (text, Claim(str(stated), str(true))), "compute")


def make_row(rng: Random, mixture: Mixture, tokenizer: Tokenizer, side: int) -> Row:
    """One row of a mixture."""
    made: Scene = scene(rng, Variation(shape=mixture.shape))
    tiles = tiles_from_image(made.image)
    problem = rng.choice(made.problems)
    tokens_per_tile = side * side
    if rng.random() < mixture.solutions:
        steps: Sequence[Step] = problem.solve(rng, n_errors(rng)).steps
        prompt = tokenizer.prompt(problem.question, steps, len(tiles), tokens_per_tile)
    else:
        prompt = tokenizer.start(problem.question, len(tiles), tokens_per_tile)
        limit = STATEMENT_TOKENS + (len(tiles) - 1) * tokens_per_tile - 26
        while len(prompt.ids) < limit:
            wrong = rng.random() < 0.5
            if rng.random() < mixture.arithmetic:
                step = arithmetic_statement(rng, wrong)
            else:
                step = rng.choices(made.facts, made.weights)[0](rng, wrong)
            tokenizer.add_step(prompt, step)
    return Row(prompt, tiles, targets_from_regions(made.regions, side), made.family)


def batch_from_rows(rows: Sequence[Row], side: int) -> Batch:
    """Stack rows that have the same number of tiles."""
    n_tiles = len(rows[0].tiles)
    longest = max(len(row.prompt.ids) for row in rows)
    length = min(limit for limit in LENGTHS if limit >= longest)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    slots: list[np.ndarray] = []
    scores: list[tuple[int, int]] = []
    readings: list[tuple[int, int]] = []
    verdicts: list[tuple[int, int]] = []
    for index, row in enumerate(rows):
        prompt, base = row.prompt, index * length
        ids[index, : len(prompt.ids)] = prompt.ids
        slots.append(base + prompt.image_start + np.arange(n_tiles * side * side))
        scores += [(base + p, int(label > 0)) for p, label in zip(prompt.scores, prompt.labels, strict=True) if label]
        readings += [(base + position, target) for position, target in prompt.readings]
        verdicts += [(base + position, int(contradicts)) for position, contradicts in prompt.verdicts]
    score_array, reading_array, verdict_array = (
        np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T.copy() for pairs in (scores, readings, verdicts)
    )
    return Batch(
        tiles=np.concatenate([row.tiles for row in rows]),
        n_tiles=n_tiles,
        ids=ids,
        image_slots=np.concatenate(slots),
        score_positions=score_array[0],
        score_labels=score_array[1],
        reading_positions=reading_array[0],
        reading_targets=reading_array[1],
        verdict_positions=verdict_array[0],
        verdict_labels=verdict_array[1],
        dense=np.stack([row.dense for row in rows]),
    )


def language_chunk(
    seed: int, n_rows: int, rows_per_batch: int, mixture: Mixture, tokenizer: Tokenizer, side: int
) -> list[Batch]:
    """About `n_rows` rows as batches in random order; images of several tiles make smaller batches."""
    rng = Random(seed)
    by_tiles: dict[int, list[Row]] = {}
    for _ in range(n_rows):
        row = make_row(rng, mixture, tokenizer, side)
        if len(row.prompt.ids) <= LENGTHS[-1] and row.tiles.shape[1] == IMAGE_SIZE_PX:
            by_tiles.setdefault(len(row.tiles), []).append(row)
    batches = []
    for n_tiles, rows in by_tiles.items():
        rows.sort(key=lambda row: len(row.prompt.ids))
        size = max(2, rows_per_batch // {1: 1, 3: 2}.get(n_tiles, 4))
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        batches += [batch_from_rows(group, side) for group in groups if len(group) == size]
    rng.shuffle(batches)
    return batches
