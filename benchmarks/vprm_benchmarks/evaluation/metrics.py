"""Step metrics on arrays: labels [S] of 1 (right), 0 (neutral), -1 (wrong), scores [S] in [0, 1], row numbers [S].

Source of the convention: OpenGVLab/VisualProcessBench and its paper, arXiv 2503.10291: a step is called right iff its
score is strictly above the threshold, neutral steps are left out, counts are pooled over samples, and the macro F1 is
the mean of the F1 of right and of wrong steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Right steps called right (tp) or wrong (fn), wrong steps called wrong (tn) or right (fp)."""

    tp: int
    tn: int
    fp: int
    fn: int

    @property
    def steps(self) -> int:
        """Number of steps counted."""
        return self.tp + self.tn + self.fp + self.fn

    @property
    def f1_right(self) -> float:
        """F1 of right steps; 0 if there are none and none is called so."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def f1_wrong(self) -> float:
        """F1 of wrong steps."""
        return ratio(2 * self.tn, 2 * self.tn + self.fp + self.fn)

    @property
    def macro_f1(self) -> float:
        """Mean of both."""
        return (self.f1_right + self.f1_wrong) / 2


@dataclass(frozen=True)
class FirstErrors:
    """Finding the first wrong step: rows with one and found exactly, rows without one and none called wrong."""

    erroneous: int
    found: int
    sound: int
    cleared: int

    @property
    def f1(self) -> float:
        """Harmonic mean of both shares, as ProcessBench (arXiv 2412.06559) defines its F1."""
        found, cleared = ratio(self.found, self.erroneous), ratio(self.cleared, self.sound)
        return ratio(2 * found * cleared, found + cleared)


@dataclass(frozen=True)
class Interval:
    """Limits that hold 95% of the bootstrap samples."""

    low: float
    high: float


@dataclass(frozen=True)
class Bin:
    """Steps with a score in [low, high): how many, their mean score, and the share that is right."""

    low: float
    high: float
    steps: int
    mean_score: float
    share_right: float


@dataclass(frozen=True)
class Steps:
    """All steps of a set of rows; `rows` numbers the rows from 0, steps of a row are neighbours, in order."""

    labels: IntArray  # [S]
    scores: FloatArray  # [S]
    rows: IntArray  # [S]

    def select(self, mask: NDArray[np.bool_]) -> Steps:
        """The steps where `mask` [S] is true."""
        return Steps(self.labels[mask], self.scores[mask], self.rows[mask])

    def without_neutral(self) -> Steps:
        """The steps that count."""
        return self.select(self.labels != 0)


def counts(steps: Steps, threshold: float) -> Counts:
    """Counts at a threshold; neutral steps are left out."""
    called_right = steps.scores > threshold
    right, wrong = steps.labels == 1, steps.labels == -1
    return Counts(
        tp=int((called_right & right).sum()),
        tn=int((~called_right & wrong).sum()),
        fp=int((called_right & wrong).sum()),
        fn=int((~called_right & right).sum()),
    )


def macro_f1_curve(steps: Steps, thresholds: FloatArray) -> FloatArray:
    """Macro F1 [T] at thresholds [T]."""
    right = np.sort(steps.scores[steps.labels == 1])
    wrong = np.sort(steps.scores[steps.labels == -1])
    tp = len(right) - np.searchsorted(right, thresholds, "right")
    fp = len(wrong) - np.searchsorted(wrong, thresholds, "right")
    return _macro_f1(tp, len(wrong) - fp, fp, len(right) - tp)


def best_threshold(steps: Steps) -> float:
    """A threshold in [0, 1] with the highest macro F1 (the lowest of equals), halfway between neighbouring scores.

    The ends are candidates too: 0, and the highest score, above which there is none.
    """
    values = np.unique(steps.scores)
    candidates = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, values[-1:]])
    return float(candidates[int(np.argmax(macro_f1_curve(steps, candidates)))])


def auc(steps: Steps) -> float | None:
    """Chance that a right step scores above a wrong one, equals counting half; None if one kind is missing."""
    return _weighted_auc(steps.without_neutral(), np.ones(_number_of_rows(steps)))


def first_errors(steps: Steps, threshold: float) -> FirstErrors:
    """First steps labelled wrong against first steps called wrong, row by row; neutral steps are left out."""
    counted = steps.without_neutral()
    size = _number_of_rows(counted)
    index = np.arange(len(counted.rows))
    none = len(index)
    labelled, called = np.full(size, none), np.full(size, none)
    np.minimum.at(labelled, counted.rows, np.where(counted.labels == -1, index, none))
    np.minimum.at(called, counted.rows, np.where(counted.scores <= threshold, index, none))
    present = np.isin(np.arange(size), counted.rows)
    erroneous, sound = present & (labelled < none), present & (labelled == none)
    return FirstErrors(
        erroneous=int(erroneous.sum()),
        found=int((erroneous & (called == labelled)).sum()),
        sound=int(sound.sum()),
        cleared=int((sound & (called == none)).sum()),
    )


def calibration(steps: Steps, bins: int = 10) -> tuple[tuple[Bin, ...], float | None]:
    """Reliability bins of equal width, and the expected calibration error; None without steps."""
    counted = steps.without_neutral()
    if not len(counted.scores):
        return (), None
    place = np.minimum((counted.scores * bins).astype(np.int64), bins - 1)
    result, error = [], 0.0
    for number in range(bins):
        inside = place == number
        size = int(inside.sum())
        mean = float(counted.scores[inside].mean()) if size else 0.0
        share = float((counted.labels[inside] == 1).mean()) if size else 0.0
        error += abs(mean - share) * size / len(place)
        result.append(Bin(number / bins, (number + 1) / bins, size, mean, share))
    return tuple(result), error


def bootstrap_macro_f1(steps: Steps, threshold: float, samples: int, seed: int = 0) -> Interval:
    """Interval of the macro F1 when whole rows are drawn again, with replacement."""
    size = _number_of_rows(steps)
    called_right = steps.scores > threshold
    right, wrong = steps.labels == 1, steps.labels == -1
    kinds = (called_right & right, ~called_right & wrong, called_right & wrong, ~called_right & right)
    by_row = np.stack([np.bincount(steps.rows[kind], minlength=size) for kind in kinds], axis=1)  # [R, 4]
    drawn = _row_weights(steps, samples, seed) @ by_row  # [B, 4]
    return _interval(_macro_f1(drawn[:, 0], drawn[:, 1], drawn[:, 2], drawn[:, 3]))


def bootstrap_auc(steps: Steps, samples: int, seed: int = 0) -> Interval | None:
    """Interval of the AUC when whole rows are drawn again; None if one kind of step is missing."""
    counted = steps.without_neutral()
    values = [_weighted_auc(counted, weights) for weights in _row_weights(steps, samples, seed)]
    known = [value for value in values if value is not None]
    return _interval(np.array(known)) if known else None


def bootstrap_mean(values: FloatArray, samples: int, seed: int = 0) -> Interval:
    """Interval of the mean of values [R] when they are drawn again, with replacement."""
    weights = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), samples)
    return _interval(weights @ values / len(values))


def _row_weights(steps: Steps, samples: int, seed: int) -> FloatArray:
    """How often each row is drawn: [B, R]; rows without steps are never drawn."""
    present = np.bincount(steps.rows, minlength=_number_of_rows(steps)) > 0
    chance = present / max(1, present.sum())
    return np.random.default_rng(seed).multinomial(int(present.sum()), chance, samples).astype(np.float64)


def _weighted_auc(counted: Steps, row_weights: FloatArray) -> float | None:
    """AUC with each step counted as often as its row is drawn."""
    weights = row_weights[counted.rows]
    _, place = np.unique(counted.scores, return_inverse=True)
    right = np.bincount(place, weights * (counted.labels == 1))
    wrong = np.bincount(place, weights * (counted.labels == -1))
    pairs = right.sum() * wrong.sum()
    if not pairs:
        return None
    below = np.cumsum(wrong) - wrong
    return float((right * (below + wrong / 2)).sum() / pairs)


def _macro_f1(
    tp: NDArray[np.generic], tn: NDArray[np.generic], fp: NDArray[np.generic], fn: NDArray[np.generic]
) -> FloatArray:
    """Macro F1 from arrays of counts, 0 for 0/0."""
    parts = []
    for hits in (np.asarray(tp, np.float64), np.asarray(tn, np.float64)):
        total = 2 * hits + np.asarray(fp, np.float64) + np.asarray(fn, np.float64)
        parts.append(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0))
    result: FloatArray = (parts[0] + parts[1]) / 2
    return result


def _interval(values: FloatArray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def _number_of_rows(steps: Steps) -> int:
    return int(steps.rows.max()) + 1 if len(steps.rows) else 0


def ratio(part: float, whole: float) -> float:
    """`part` of `whole`; 0 of nothing."""
    return part / whole if whole else 0.0
