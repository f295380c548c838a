"""Rows on disk: images and JSON lines in VisualProcessBench's format, best-of-N sets and the model card's example.

A folder appears whole or not at all. Its name holds the generator's version and every parameter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from PIL import Image

from vprm_runtime.files import whole_folder
from vprm_runtime.machine import cache_directory

from .generator import FAMILIES, Variation, scene
from .generator.angles import build_split_angle
from .generator.types import GENERATOR_VERSION, Problem, Scene, Solution

Row = dict[str, object]
ROWS_FILE = "rows.jsonl"
SPLIT_SEEDS = {"train": 1, "held_out": 2, "best_of_n": 3, "calibration": 4, "example": 5}
"""Each split draws from seeds of its own."""


def row_rng(split: str, seed: int, index: int) -> Random:
    """The generator of one row, so that a row does not depend on how many there are."""
    return Random(f"{GENERATOR_VERSION}/{SPLIT_SEEDS[split]}/{seed}/{index}")


def n_errors(rng: Random) -> int:
    """How many mistakes a solution of a labelled row has: none in 45% of the rows."""
    return rng.choices((0, 1, 2), (45, 35, 20))[0]


def process_row(made: Scene, solution: Solution, question: str, answer: str, image: str) -> Row:
    """A row of VisualProcessBench's test file."""
    return {
        "image": [image],
        "question": question,
        "answer": answer,
        "response": {
            "steps": [step.text for step in solution.steps],
            "process_correctness": [step.label for step in solution.steps],
        },
        "policy_model": "vprm-demo-generator",
        "data_source": made.family,
    }


def labelled_rows(split: str, n: int, seed: int, variation: Variation) -> Iterator[tuple[Row, Image.Image]]:
    """`n` rows with their images, families in turn."""
    families = tuple(FAMILIES)
    for index in range(n):
        rng = row_rng(split, seed, index)
        made = scene(rng, Variation(variation.held_out, variation.shape, (families[index % len(families)],)))
        problem = rng.choice(made.problems)
        solution = problem.solve(rng, n_errors(rng))
        yield process_row(made, solution, problem.question, problem.answer, f"images/{index:05d}.png"), made.image


def best_of_n_row(rng: Random, made: Scene, n_responses: int) -> Row:
    """A question with `n_responses` solutions, 1 to about half of them right, in random order."""
    problem = rng.choice(made.problems)
    n_right = rng.randint(1, max(1, n_responses // 2))
    solutions = [problem.solve(rng, 0 if index < n_right else rng.choice((1, 1, 2))) for index in range(n_responses)]
    rng.shuffle(solutions)
    return _answered(problem, solutions, made.family)


def _answered(problem: Problem, solutions: Sequence[Solution], family: str) -> Row:
    """A question, its answer and several responses."""
    return {
        "question": problem.question,
        "answer": problem.answer,
        "responses": [[step.text for step in solution.steps] for solution in solutions],
        "correct": [solution.correct for solution in solutions],
        "process_correctness": [[step.label for step in solution.steps] for solution in solutions],
        "data_source": family,
    }


def best_of_n(n: int, n_responses: int, seed: int) -> Iterator[tuple[Row, Image.Image]]:
    """Best-of-N rows on held-out images, families in turn."""
    families = tuple(FAMILIES)
    for index in range(n):
        rng = row_rng("best_of_n", seed, index)
        made = scene(rng, Variation(held_out=True, families=(families[index % len(families)],)))
        row = best_of_n_row(rng, made, n_responses)
        yield {"id": f"bon-{index:05d}", "image": [f"images/{index:05d}.png"], **row}, made.image


def example_variants(n: int, seed: int) -> Iterator[tuple[Row, Image.Image]]:
    """Variants of the model card's example: a right angle split in two, one right and one wrong response in either
    order."""
    for index in range(n):
        rng = row_rng("example", seed, index)
        while True:
            known, name = rng.randint(15, 75), rng.randint(1, 4)
            if (3 * known + name) % 5 == 0:
                break
        made = build_split_angle(rng, Variation(held_out=True, shape="tile"), "right", known, name)
        problem = made.problems[0]
        solutions = [problem.solve(rng, 0), problem.solve(rng, 1)]
        rng.shuffle(solutions)
        row = _answered(problem, solutions, made.family)
        yield {"id": f"example-{index:05d}", "image": [f"images/{index:05d}.png"], **row}, made.image


def write_rows(name: str, make: Callable[[], Iterator[tuple[Row, Image.Image]]], cache_dir: Path | None) -> Path:
    """The path of a folder's `rows.jsonl`, generated if it is not there yet."""
    root = (cache_dir if cache_dir is not None else cache_directory()) / "demo"
    target = root / f"v{GENERATOR_VERSION}-{name}"
    if (target / ROWS_FILE).exists():
        return target / ROWS_FILE
    root.mkdir(parents=True, exist_ok=True)
    try:
        with whole_folder(target) as temporary, (temporary / ROWS_FILE).open("w", encoding="utf-8") as out:
            (temporary / "images").mkdir()
            for row, image in make():
                images = row["image"]
                if isinstance(images, list):
                    image.save(temporary / str(images[0]), compress_level=1)
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError:
        if not (target / ROWS_FILE).exists():  # else: another process was faster, with the same content
            raise
    return target / ROWS_FILE
