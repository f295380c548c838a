"""VisualProcessBench's evaluation of scored rows: macro F1 in both conventions, AUC, first errors, calibration.

A sample is one labelled response. Overall figures come twice, because two conventions are in use: *pooled* (counts of
all sources added up) and *step-weighted* (mean of the sources' macro F1, weighted by their labelled steps).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.evaluation.metrics import (
    Steps,
    auc,
    best_threshold,
    bootstrap_auc,
    bootstrap_macro_f1,
    calibration,
    counts,
    first_errors,
    macro_f1_curve,
)
from vprm_benchmarks.evaluation.process_result import AtThreshold, Group, HeldOutThreshold, ProcessBench
from vprm_benchmarks.evaluation.published import (
    PUBLISHED_F1,
    VISUAL_PROCESS_BENCH_SOURCES,
    PublishedF1,
    is_visual_process_bench,
)
from vprm_benchmarks.evaluation.scored import LeftOut, ScoredCandidate, ScoredRow, ScoredRows, first_reason
from vprm_runtime import InputError

THRESHOLDS = (0.5, 0.8, 0.85)  # even odds; VisualPRM's check_correctness; another value that its users take
CURVE_POINTS = 101


@dataclass(frozen=True)
class ProcessBenchOptions:
    """Thresholds to report at, number of bootstrap samples and their seed."""

    thresholds: tuple[float, ...] = THRESHOLDS
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.thresholds or any(not 0 <= threshold <= 1 for threshold in self.thresholds):
            raise InputError(f"thresholds must be numbers from 0 to 1, got {list(self.thresholds)}")
        if self.bootstrap < 1:
            raise InputError(f"the number of bootstrap samples must be at least 1, got {self.bootstrap}")


@dataclass(frozen=True)
class Sample:
    """One labelled response: its row, its index there, its steps' labels and scores."""

    row: ScoredRow
    index: int
    candidate: ScoredCandidate
    labels: tuple[int, ...]


def evaluate_process(scored: ScoredRows, options: ProcessBenchOptions | None = None) -> ProcessBench:
    """Evaluate scored rows. Raises InputError if no step is labelled right or wrong."""
    chosen = options or ProcessBenchOptions()
    samples, unlabelled = labelled_samples(scored.rows)
    steps = _steps(samples)
    counted = steps.without_neutral()
    if not len(counted.labels):
        raise InputError(
            "no step has a label of 1 or -1: give rows with process_correctness, such as VisualProcessBench's"
            + first_reason(scored.left_out)
        )
    sources = _groups(samples, steps, chosen, lambda sample: sample.row.source)
    grid = np.linspace(0.0, 1.0, CURVE_POINTS)
    bins, error = calibration(steps)
    return ProcessBench(
        samples=len(samples),
        right=int((steps.labels == 1).sum()),
        wrong=int((steps.labels == -1).sum()),
        neutral=int((steps.labels == 0).sum()),
        left_out=(*scored.left_out, *unlabelled),
        thresholds=tuple(_at_threshold(number, counted, sources, chosen) for number in range(len(chosen.thresholds))),
        held_out=_held_out(samples, steps, chosen),
        curve=tuple(zip(grid.tolist(), macro_f1_curve(counted, grid).tolist(), strict=True)),
        auc=auc(steps),
        auc_interval=bootstrap_auc(steps, min(chosen.bootstrap, 1000), chosen.seed),
        sources=sources,
        policies=_groups(samples, steps, chosen, lambda sample: sample.row.policy),
        bins=bins,
        calibration_error=error,
        published=_published(sources),
    )


def labelled_samples(rows: Iterable[ScoredRow]) -> tuple[list[Sample], list[LeftOut]]:
    """All labelled responses of rows, and what had to be left out."""
    samples, left_out = [], []
    for row in rows:
        for index, candidate in enumerate(row.candidates):
            if candidate.error is not None:
                left_out.append(LeftOut(row.id, f"response {index}: {candidate.error}"))
            elif candidate.labels is None:
                why = candidate.label_error or "it has no label for each of its steps"
                left_out.append(LeftOut(row.id, f"response {index}: {why}"))
            else:
                samples.append(Sample(row, index, candidate, candidate.labels))
    return samples, left_out


def _steps(samples: Sequence[Sample]) -> Steps:
    lengths = [len(sample.labels) for sample in samples]
    return Steps(
        labels=np.array([label for sample in samples for label in sample.labels], np.int64),
        scores=np.array([score for sample in samples for score in sample.candidate.scores], np.float64),
        rows=np.repeat(np.arange(len(samples)), lengths),
    )


def _at_threshold(number: int, counted: Steps, sources: Sequence[Group], options: ProcessBenchOptions) -> AtThreshold:
    threshold = options.thresholds[number]
    weighted = sum(group.counts[number].macro_f1 * group.steps for group in sources)
    return AtThreshold(
        threshold=threshold,
        pooled=counts(counted, threshold),
        interval=bootstrap_macro_f1(counted, threshold, options.bootstrap, options.seed),
        step_weighted_macro_f1=weighted / sum(group.steps for group in sources),
        first_errors=first_errors(counted, threshold),
    )


def _groups(
    samples: Sequence[Sample], steps: Steps, options: ProcessBenchOptions, name_of: Callable[[Sample], str]
) -> tuple[Group, ...]:
    members: Mapping[str, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        members[name_of(sample)].append(number)
    result = []
    for name in sorted(members):
        counted = steps.select(np.isin(steps.rows, members[name])).without_neutral()
        at = tuple(counts(counted, threshold) for threshold in options.thresholds)
        result.append(Group(name, len(members[name]), len(counted.labels), auc(counted), at))
    return tuple(result)


def _held_out(samples: Sequence[Sample], steps: Steps, options: ProcessBenchOptions) -> HeldOutThreshold | None:
    """Choose on the questions whose hash is even, report on the others; None if a half has no counted step."""
    even = np.array([_is_even(sample.row.question) for sample in samples])
    in_even: NDArray[np.bool_] = even[steps.rows]
    chosen_on, other = steps.select(in_even).without_neutral(), steps.select(~in_even).without_neutral()
    if not len(chosen_on.labels) or not len(other.labels):
        return None
    threshold = best_threshold(chosen_on)
    return HeldOutThreshold(
        threshold=threshold,
        chosen_on_samples=int(even.sum()),
        samples=int((~even).sum()),
        counts=counts(other, threshold),
        interval=bootstrap_macro_f1(other, threshold, options.bootstrap, options.seed),
    )


def _is_even(question: str) -> bool:
    """Half of all questions; responses to one question are in the same half."""
    return hashlib.blake2b(question.encode(), digest_size=1).digest()[0] % 2 == 0


def _published(sources: Sequence[Group]) -> tuple[PublishedF1, ...]:
    """Published figures, with sources named as in the data, if the data is the real benchmark."""
    if not is_visual_process_bench({group.name for group in sources}):
        return ()
    names = {paper: data for data, paper in VISUAL_PROCESS_BENCH_SOURCES.items()}
    return tuple(
        replace(item, sources={names[name]: value for name, value in item.sources.items()}) for item in PUBLISHED_F1
    )
