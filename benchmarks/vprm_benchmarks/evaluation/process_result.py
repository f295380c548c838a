"""The result of VisualProcessBench's evaluation, and its JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vprm_benchmarks.evaluation.metrics import Bin, Counts, FirstErrors, Interval
from vprm_benchmarks.evaluation.published import PublishedF1
from vprm_benchmarks.evaluation.scored import LeftOut


@dataclass(frozen=True)
class Group:
    """A source or policy model: samples, labelled steps, and figures at each threshold, in the options' order."""

    name: str
    samples: int
    steps: int
    auc: float | None
    counts: tuple[Counts, ...]


@dataclass(frozen=True)
class AtThreshold:
    """Overall figures at one threshold."""

    threshold: float
    pooled: Counts
    interval: Interval
    step_weighted_macro_f1: float
    first_errors: FirstErrors


@dataclass(frozen=True)
class HeldOutThreshold:
    """The threshold that is best on one half of the questions, and what it gives on the other."""

    threshold: float
    chosen_on_samples: int
    samples: int
    counts: Counts
    interval: Interval


@dataclass(frozen=True)
class ProcessBench:
    """The whole evaluation."""

    samples: int
    right: int
    wrong: int
    neutral: int
    left_out: tuple[LeftOut, ...]
    thresholds: tuple[AtThreshold, ...]
    held_out: HeldOutThreshold | None
    curve: tuple[tuple[float, float], ...]
    auc: float | None
    auc_interval: Interval | None
    sources: tuple[Group, ...]
    policies: tuple[Group, ...]
    bins: tuple[Bin, ...]
    calibration_error: float | None
    published: tuple[PublishedF1, ...]

    def to_json(self) -> dict[str, Any]:
        """The evaluation as JSON values; F1 beside the counts that it follows from."""
        return {
            "samples": self.samples,
            "steps": {"right": self.right, "wrong": self.wrong, "neutral": self.neutral},
            "left_out": {"count": len(self.left_out), "rows": [asdict(row) for row in self.left_out]},
            "thresholds": [self._threshold_json(number, item) for number, item in enumerate(self.thresholds)],
            "best_threshold": _held_out_json(self.held_out),
            "auc": {
                "pooled": self.auc,
                "interval_95": self.auc_interval and asdict(self.auc_interval),
                "sources": {group.name: group.auc for group in self.sources},
                "policy_models": {group.name: group.auc for group in self.policies},
            },
            "calibration": {"expected_error": self.calibration_error, "bins": [asdict(item) for item in self.bins]},
            "curve": [{"threshold": threshold, "macro_f1": value} for threshold, value in self.curve],
            "published": [asdict(item) for item in self.published],
        }

    def _threshold_json(self, number: int, item: AtThreshold) -> dict[str, Any]:
        return {
            "threshold": item.threshold,
            "pooled": {**_counts_json(item.pooled), "interval_95": asdict(item.interval)},
            "step_weighted_macro_f1": item.step_weighted_macro_f1,
            "sources": {group.name: _counts_json(group.counts[number]) for group in self.sources},
            "policy_models": {group.name: _counts_json(group.counts[number]) for group in self.policies},
            "first_error": {**asdict(item.first_errors), "f1": item.first_errors.f1},
        }


def _counts_json(item: Counts) -> dict[str, Any]:
    return {**asdict(item), "f1_right": item.f1_right, "f1_wrong": item.f1_wrong, "macro_f1": item.macro_f1}


def _held_out_json(item: HeldOutThreshold | None) -> dict[str, Any] | None:
    if item is None:
        return None
    return {
        "threshold": item.threshold,
        "chosen_on_samples": item.chosen_on_samples,
        "samples": item.samples,
        **_counts_json(item.counts),
        "interval_95": asdict(item.interval),
    }
