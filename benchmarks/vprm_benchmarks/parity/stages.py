"""Collect differences stage by stage over many cases, and judge them once against the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.parity.tolerances import Stage, Tolerance, tolerance


@dataclass(frozen=True)
class StageResult:
    """A stage over all cases. Errors, ``needed`` and ``limit`` are in the tolerance's unit."""

    stage: Stage
    passed: bool
    values: int
    mean: float
    p99: float
    needed: float  # the largest error: the smallest tolerance that would pass
    limit: float
    unit: str
    reason: str
    worst_case: str | None
    problems: tuple[str, ...]


@dataclass
class StageCollector:
    """Pairs of (reference, bundle) values of one stage, case after case; :meth:`result` judges them together."""

    stage: Stage
    precision: str
    wanted: list[NDArray[np.float64]] = field(default_factory=list)
    got: list[NDArray[np.float64]] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, case: str, wanted: NDArray[np.generic], got: NDArray[np.generic]) -> bool:
        """Compare dtype kind and shape, and keep the values; False if they cannot be compared value by value."""
        wanted, got = np.asarray(wanted), np.asarray(got)
        if wanted.shape != got.shape:
            self.problems.append(f"{case}: shape {list(got.shape)}, reference {list(wanted.shape)}")
            return False
        exact = tolerance(self.stage, self.precision).unit == "exact"
        if exact and not (_is_integer(wanted) and _is_integer(got)):
            self.problems.append(f"{case}: dtype {got.dtype}, reference {wanted.dtype}: expected integers")
            return False
        self.wanted.append(wanted.astype(np.float64).ravel())
        self.got.append(got.astype(np.float64).ravel())
        self.cases.append(case)
        return not exact or bool(np.array_equal(wanted, got))

    def fail(self, case: str, problem: str) -> None:
        """Record that the stage could not be compared at all."""
        self.problems.append(f"{case}: {problem}")

    def result(self) -> StageResult:
        """Judge everything collected."""
        allowed = tolerance(self.stage, self.precision)
        scale = self._scale(allowed)
        errors = [np.abs(got - wanted) / scale for got, wanted in zip(self.got, self.wanted, strict=True)]
        pooled = np.concatenate(errors) if errors else np.zeros(0)
        needed = _largest(pooled)
        worst = max(zip(errors, self.cases, strict=True), key=lambda pair: _largest(pair[0]), default=(None, None))[1]
        return StageResult(
            stage=self.stage,
            passed=needed <= allowed.limit and not self.problems,
            values=int(pooled.size),
            mean=_finite(pooled.mean()) if pooled.size else 0.0,
            p99=_finite(np.percentile(pooled, 99)) if pooled.size else 0.0,
            needed=needed,
            limit=allowed.limit,
            unit=allowed.unit,
            reason=allowed.reason,
            worst_case=worst if needed > 0 else None,
            problems=tuple(self.problems),
        )

    def _scale(self, allowed: Tolerance) -> float:
        if allowed.unit != "rms" or not self.wanted:
            return 1.0
        return max(float(np.sqrt(np.mean(np.square(np.concatenate(self.wanted))))), 1e-12)


@dataclass
class RankingCollector:
    """Order of candidates by score: a pair in the wrong order counts with its distance in the reference."""

    precision: str
    inversions: list[tuple[float, str]] = field(default_factory=list)
    pairs: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, case: str, wanted: Sequence[float], got: Sequence[float]) -> None:
        """Compare the order of all pairs of candidates of one case by their response scores."""
        for first in range(len(wanted)):
            for second in range(first + 1, len(wanted)):
                self.pairs += 1
                gap = wanted[first] - wanted[second]
                if gap * (got[first] - got[second]) < 0:
                    self.inversions.append((abs(gap), case))

    def result(self) -> StageResult:
        """Judge: the widest gap that was inverted must be within the table's limit."""
        allowed = tolerance("ranking", self.precision)
        gaps = np.array([gap for gap, _ in self.inversions])
        needed, worst = max(self.inversions, default=(0.0, None))
        return StageResult(
            stage="ranking",
            passed=needed <= allowed.limit and not self.problems,
            values=self.pairs,
            mean=float(gaps.sum() / self.pairs) if self.pairs else 0.0,
            p99=float(np.percentile(gaps, 99)) if gaps.size else 0.0,
            needed=needed,
            limit=allowed.limit,
            unit=allowed.unit,
            reason=allowed.reason,
            worst_case=worst,
            problems=tuple(self.problems),
        )


def _is_integer(array: NDArray[np.generic]) -> bool:
    return array.dtype.kind in "iub"


def _largest(errors: NDArray[np.float64]) -> float:
    """The largest error; infinite if one is not a number, so that it never passes."""
    if not errors.size:
        return 0.0
    return _finite(errors.max())


def _finite(value: np.floating) -> float:
    return float(value) if np.isfinite(value) else float("inf")
