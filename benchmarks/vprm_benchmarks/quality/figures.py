"""Figures of a comparison: step-score error, macro F1 and AUC before and after, and choices that changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vprm_benchmarks.evaluation.metrics import Steps, auc, counts
from vprm_benchmarks.evaluation.processbench import THRESHOLDS
from vprm_benchmarks.quality.compare import ComparedRow, Scores

MARGIN = 0.02  # a choice between responses closer than this was a coin's toss before


@dataclass(frozen=True)
class ErrorFigures:
    """Absolute difference of step scores."""

    steps: int
    mean: float
    p99: float
    max: float


@dataclass(frozen=True)
class LabelFigures:
    """One measure against labels, before and after."""

    name: str
    reference: float
    candidate: float

    @property
    def change(self) -> float:
        """After minus before."""
        return self.candidate - self.reference


@dataclass(frozen=True)
class ChoiceFigures:
    """Best-of-N choices by mean step score. A flip's margin: how much better the reference thought its own choice."""

    choices: int
    flip_margins: tuple[float, ...]

    @property
    def flips_outside(self) -> float:
        """Share of choices that flipped although the margin was above MARGIN."""
        outside = sum(margin > MARGIN for margin in self.flip_margins)
        return outside / self.choices if self.choices else 0.0


@dataclass(frozen=True)
class Figures:
    """All of a comparison. `labels` is empty without labels, `choices.choices` 0 without several responses a row."""

    errors: ErrorFigures
    labels: tuple[LabelFigures, ...]
    choices: ChoiceFigures

    @property
    def f1_change(self) -> float | None:
        """The largest absolute change of macro F1 over the thresholds; None without labels."""
        changes = [abs(figure.change) for figure in self.labels if figure.name.startswith("macro F1")]
        return max(changes) if changes else None


def figures_of(rows: Sequence[ComparedRow]) -> Figures:
    """Figures over all rows."""
    reference = np.array(list(_flat(row.reference for row in rows)))
    candidate = np.array(list(_flat(row.candidate for row in rows)))
    error = np.abs(candidate - reference)
    errors = ErrorFigures(len(error), float(error.mean()), float(np.percentile(error, 99)), float(error.max()))
    return Figures(errors, _label_figures(rows), _choice_figures(rows))


def _flat(scores: Iterable[Scores]) -> Iterable[float]:
    return (score for row in scores for response in row for score in response)


def _label_figures(rows: Sequence[ComparedRow]) -> tuple[LabelFigures, ...]:
    labels, before, after = [], [], []
    for row in rows:
        if row.labels is not None:
            labels += [label for response in row.labels for label in response]
            before += list(_flat([row.reference]))
            after += list(_flat([row.candidate]))
    if not any(labels):
        return ()
    number = np.zeros(len(labels), np.int64)  # of the row, which no figure here depends on
    pair = [Steps(np.array(labels), np.array(scores), number) for scores in (before, after)]
    found = [LabelFigures(f"macro F1 at {t}", *(counts(steps, t).macro_f1 for steps in pair)) for t in THRESHOLDS]
    first, second = (auc(steps) for steps in pair)
    if first is not None and second is not None:
        found.append(LabelFigures("AUC", first, second))
    return tuple(found)


def _choice_figures(rows: Sequence[ComparedRow]) -> ChoiceFigures:
    choices, margins = 0, []
    for row in rows:
        if len(row.reference) < 2:
            continue
        choices += 1
        before = [float(np.mean(steps)) for steps in row.reference]
        after = [float(np.mean(steps)) for steps in row.candidate]
        first, second = int(np.argmax(before)), int(np.argmax(after))
        if first != second:
            margins.append(before[first] - before[second])
    return ChoiceFigures(choices, tuple(sorted(margins, reverse=True)))
