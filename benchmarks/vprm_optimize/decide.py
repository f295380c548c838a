"""From measured accuracy and speed to a choice, with its reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vprm_benchmarks.quality.budget import BUDGETS, Budget, check
from vprm_benchmarks.quality.compare import ComparedRow, row_labels
from vprm_benchmarks.quality.figures import MARGIN, Figures, figures_of
from vprm_optimize.recipes import Goal, Recipe
from vprm_optimize.selection import ChosenRows, Selection
from vprm_runtime.bundle.manifest import Precision
from vprm_runtime.datasets.row import Row
from vprm_runtime.errors import InputError
from vprm_runtime.files import read_small
from vprm_runtime.strict_json import loads

State = Literal["chosen", "held", "rejected", "failed", "not tried"]
ENOUGH_FASTER = 0.9
"""A recipe that is listed later, or needs a device to be named, is taken only if it takes less than this share of the
time: closer ones are equal on a machine that is not quiet, and the choice should not depend on that."""
_Z = 1.959964  # 95% of a normal distribution


class NoneHeldError(InputError):
    """No recipe held the budget. `report` says by how much each missed it."""

    report: dict[str, Any]


@dataclass
class Outcome:
    """What became of a recipe. `quality` and `speed` are None if they were not measured."""

    recipe: Recipe
    state: State
    reason: str
    size_bytes: int | None = None
    export_s: float | None = None
    quality: dict[str, Any] | None = None
    speed: dict[str, Any] | None = None

    @property
    def survived(self) -> bool:
        """Whether it held the budget."""
        return self.state in ("held", "chosen")


def read_budget(text: str) -> Budget:
    """A preset (a precision's budget, or "exact") or a JSON file {"mean_error", "f1_change", "flips_outside"}.

    Raises InputError on anything else.
    """
    presets: dict[str, Precision] = {name: name for name in BUDGETS}
    name = presets.get("fp32" if text == "exact" else text)
    if name is not None:
        return BUDGETS[name]
    keys = ("mean_error", "f1_change", "flips_outside")
    try:
        document = loads(read_small(text))
    except OSError as error:
        known = ", ".join(["exact", *BUDGETS])
        raise InputError(
            f"--budget {text!r} is neither a preset ({known}) nor a file that can be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise InputError(f"--budget {text}: not JSON ({error}): write an object with {', '.join(keys)}") from error
    if not isinstance(document, Mapping) or set(document) != set(keys):
        raise InputError(f"--budget {text}: write an object with just the keys {', '.join(keys)}")
    values = [document[key] for key in keys]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 for value in values):
        raise InputError(f"--budget {text}: every value is a number from 0 to 1, got {values}"[:300])
    return Budget(*map(float, values))


def compared_rows(
    selection: Selection, reference: Sequence[dict[str, Any]], candidate: Sequence[dict[str, Any]]
) -> tuple[list[ComparedRow], list[str]]:
    """Rows that both sides scored, and a line for each row that one of them did not."""
    found, left_out = [], []
    for row, expected, got in zip(ChosenRows(selection.judging), reference, candidate, strict=True):
        error = expected["error"] or got["error"]
        if error is not None:
            left_out.append(str(error))
            continue
        labels = row_labels(row) if isinstance(row, Row) else None
        found.append(ComparedRow(row.id, _scores(expected), _scores(got), labels))
    return found, left_out


def _scores(document: dict[str, Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(steps) for steps in document["scores"])


def judged(rows: Sequence[ComparedRow], left_out: Sequence[str], budget: Budget) -> dict[str, Any]:
    """Figures, intervals and verdict of one recipe, for JSON. Raises InputError if there is no row to judge by."""
    if not rows:
        raise InputError(f"not one of the rows to judge by can be scored; the first: {left_out[0] if left_out else ''}")
    figures = figures_of(rows)
    checks = check(figures, budget)
    return {
        "rows": len(rows),
        "left_out": len(left_out),
        "first_error": left_out[0] if left_out else None,
        "steps": figures.errors.steps,
        "mean_error": figures.errors.mean,
        "p99_error": figures.errors.p99,
        "max_error": figures.errors.max,
        "f1_change": figures.f1_change,
        "choices": figures.choices.choices,
        "flips": len(figures.choices.flip_margins),
        "flips_outside": figures.choices.flips_outside if figures.choices.choices else None,
        "flips_outside_interval": _interval(figures),
        "margin": MARGIN,
        "checks": [{"name": c.name, "value": c.value, "allowed": c.allowed, "passed": c.passed} for c in checks],
        "held": all(c.passed for c in checks),
    }


def _interval(figures: Figures) -> list[float] | None:
    """Wilson's 95% interval of the share of choices that flip outside the margin."""
    choices = figures.choices.choices
    if not choices:
        return None
    share = figures.choices.flips_outside
    middle = (share + _Z**2 / (2 * choices)) / (1 + _Z**2 / choices)
    half = _Z * math.sqrt(share * (1 - share) / choices + _Z**2 / (4 * choices**2)) / (1 + _Z**2 / choices)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def choose(outcomes: Sequence[Outcome], goal: Goal) -> Outcome:
    """Mark the winner among recipes that held the budget; the first in order of the plan among equals.

    Raises NoneHeldError if none held it.
    """
    held = [outcome for outcome in outcomes if outcome.survived]
    if not held:
        tried = "; ".join(f"{one.recipe.name}: {one.reason}" for one in outcomes if one.state in ("rejected", "failed"))
        raise NoneHeldError(f"no recipe held the budget ({tried}): allow more with --budget, or judge with more rows")
    best = held[0]
    for other in held[1:]:
        if _cost(other, goal) < _cost(best, goal) * (1.0 if goal == "size" else ENOUGH_FASTER):
            best = other
    best.state, best.reason = "chosen", _reason(best, held, goal)
    return best


def _cost(outcome: Outcome, goal: Goal) -> float:
    if goal == "size":
        return float(outcome.size_bytes or math.inf)
    return float(outcome.speed["best_of_n_s"]) if outcome.speed else math.inf


def _reason(best: Outcome, held: Sequence[Outcome], goal: Goal) -> str:
    others = [outcome for outcome in held if outcome is not best]
    if goal == "exact":
        return "the goal is exact: scores as the checkpoint's own in floating point"
    if goal == "size":
        return "the smallest bundle that holds the budget"
    if best.speed is None:
        return "the first in order of expected speed that holds the budget; speeds could not be measured here"
    if not others:
        return "the only recipe tried that holds the budget"
    faster = [o for o in others if _cost(o, goal) < _cost(best, goal)]
    if faster:
        return "within 10% of the fastest that holds the budget, and earlier in the plan"
    return "the fastest that holds the budget"
