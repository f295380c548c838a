"""The demo PRM's quality through the runtime: `vprm bench demo-quality [--json]`.

Held-out rows as they are and with every image replaced by grey of the same size, best-of-8 questions, and variants
of the model card's example; scored with the demo's fp32 bundle.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

import vprm_demo
from vprm_benchmarks.evaluation.metrics import Steps, auc, counts
from vprm_runtime import StepScorer
from vprm_runtime.cli.common import activity, print_json, resolve_bundle, stdout_console
from vprm_runtime.cli.progress import Say, say_nothing
from vprm_runtime.images.load import load_image

THRESHOLD = 0.5
GREY = (128, 128, 128)


@dataclass(frozen=True)
class DemoQuality:
    """The figures of docs/demo-prm.md; accuracies and F1 in [0, 1]."""

    macro_f1: float
    auc: float
    grey_macro_f1: float
    family_macro_f1: dict[str, float]
    family_grey_macro_f1: dict[str, float]
    best_of_8: float
    best_of_8_at_random: float
    example_variants: float


def measure(scorer: StepScorer, rows: int, questions: int, variants: int, say: Say = say_nothing) -> DemoQuality:
    """Score everything and sum it up."""
    held_out = _read(vprm_demo.held_out_rows(rows))
    seen = _labelled_steps(scorer, held_out, False, say)
    grey = _labelled_steps(scorer, held_out, True, say)
    choices = _read(vprm_demo.best_of_n_rows(questions))
    source = np.array([row["data_source"] for row in held_out])
    family = {name: source[seen.rows] == name for name in sorted(set(source.tolist()))}  # step masks [S]
    return DemoQuality(
        macro_f1=counts(seen, THRESHOLD).macro_f1,
        auc=auc(seen) or 0.0,
        grey_macro_f1=counts(grey, THRESHOLD).macro_f1,
        family_macro_f1={name: counts(seen.select(mine), THRESHOLD).macro_f1 for name, mine in family.items()},
        family_grey_macro_f1={name: counts(grey.select(mine), THRESHOLD).macro_f1 for name, mine in family.items()},
        best_of_8=_share_of_right_choices(scorer, choices, say),
        best_of_8_at_random=float(np.mean([np.mean(row["correct"]) for row in choices])),
        example_variants=_share_of_right_choices(scorer, _read(vprm_demo.example_variant_rows(variants)), say),
    )


def _labelled_steps(scorer: StepScorer, rows: Sequence[dict[str, Any]], grey: bool, say: Say) -> Steps:
    labels: list[int] = []
    scores: list[float] = []
    numbers: list[int] = []
    for number, row in enumerate(rows):
        say("grey images" if grey else "images", number, len(rows))
        steps = row["response"]["steps"]
        candidate = scorer.score(_images(row, grey), row["question"], [steps]).candidates[0]
        labels += row["response"]["process_correctness"]
        scores += [step.score for step in candidate.steps]
        numbers += [number] * len(steps)
    return Steps(np.array(labels, np.int64), np.array(scores), np.array(numbers, np.int64))


def _share_of_right_choices(scorer: StepScorer, rows: Sequence[dict[str, Any]], say: Say) -> float:
    """How often the response with the highest mean step score is a right one."""
    right = []
    for number, row in enumerate(rows):
        say("choices", number, len(rows))
        best = scorer.score(_images(row, grey=False), row["question"], row["responses"]).best
        right.append(best is not None and row["correct"][best])
    return float(np.mean(right))


def _images(row: dict[str, Any], grey: bool) -> list[Image.Image | str]:
    if not grey:
        return list(row["image"])
    return [Image.new("RGB", load_image(path).size, GREY) for path in row["image"]]


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows of a generated file, with image paths resolved."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{**row, "image": [str(path.parent / image) for image in row["image"]]} for row in rows]


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    scorer = StepScorer.open(resolve_bundle(args.bundle))
    with activity("demo-quality", "rows") as say:
        quality = measure(scorer, args.rows, args.questions, args.variants, say)
    if args.json:
        print_json({"engine": scorer.engine.description, **asdict(quality)})
        return 0
    table = Table("figure", "value", show_edge=False)
    for name, value in asdict(quality).items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, number in parts:
            table.add_row(f"{name} {part}".strip(), f"{number:.3f}")
    stdout_console().print(table)
    return 0
