"""The demo PRM: a small trained visual process reward model in the hub's layout, its example, and rows to score.

Everything here needs NumPy and Pillow only; training (`python -m vprm_demo_training`) needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import rows as _rows
from .generator.types import Variation

__all__ = [
    "Example",
    "best_of_n_rows",
    "calibration_rows",
    "checkpoint_dir",
    "example",
    "example_variant_rows",
    "held_out_rows",
]

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """An image, a question, two responses (steps separated by a blank line) and the right answer."""

    image: Path
    question: str
    responses: list[str]
    answer: str


def checkpoint_dir() -> Path:
    """The folder of the demo PRM's checkpoint: config.json, safetensors shards and tokenizer files."""
    return _PACKAGE / "checkpoint"


def example() -> Example:
    """The model card's example: a right angle split into 39 degrees and angle 3; the first response is right, the
    second wrong."""
    right = ("A right angle is split in two.", "The marked angle is 39°.", "So 90 - 39 = 51.", "So m \\angle 3 = 51°.")
    wrong = ("A right angle is split in two.", "The marked angle is 48°.", "So 90 - 48 = 42.", "So m \\angle 3 = 42°.")
    return Example(
        image=_PACKAGE / "assets" / "angle.png",
        question="Find m \\angle 3.",
        responses=["\n\n".join(right), "\n\n".join(wrong)],
        answer="51",
    )


def held_out_rows(n: int = 1000, *, seed: int = 0, cache_dir: Path | None = None) -> Path:
    """A jsonl file of `n` VisualProcessBench rows that share no font, palette or number combination with training."""
    _check_positive("n", n)
    variation = Variation(held_out=True)
    return _rows.write_rows(
        f"held-out-{n}-{seed}", lambda: _rows.labelled_rows("held_out", n, seed, variation), cache_dir
    )


def best_of_n_rows(n: int = 200, *, n_responses: int = 8, seed: int = 0, cache_dir: Path | None = None) -> Path:
    """A jsonl file of `n` held-out questions with `n_responses` solutions each.

    A row: `{"id", "image": [...], "question", "answer", "responses": [[step]], "correct": [bool],
    "process_correctness": [[1|0|-1]], "data_source"}`.
    """
    _check_positive("n", n)
    if n_responses < 2:
        raise ValueError(
            f"n_responses must be at least 2, got {n_responses}: a choice needs a right and a wrong solution"
        )
    name = f"best-of-{n_responses}-{n}-{seed}"
    return _rows.write_rows(name, lambda: _rows.best_of_n(n, n_responses, seed), cache_dir)


def example_variant_rows(n: int = 100, *, seed: int = 0, cache_dir: Path | None = None) -> Path:
    """A jsonl file of `n` variants of `example()` with other numbers and images, in the format of
    `best_of_n_rows`."""
    _check_positive("n", n)
    return _rows.write_rows(f"example-variants-{n}-{seed}", lambda: _rows.example_variants(n, seed), cache_dir)


def calibration_rows(n: int = 64, *, seed: int = 0, cache_dir: Path | None = None) -> Path:
    """A jsonl file of `n` rows like `held_out_rows`, drawn from the looks and numbers of training."""
    _check_positive("n", n)
    name = f"calibration-{n}-{seed}"
    return _rows.write_rows(name, lambda: _rows.labelled_rows("calibration", n, seed, Variation()), cache_dir)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
