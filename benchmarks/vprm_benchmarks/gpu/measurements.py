"""What the suite measures of each contender, by the speed harness's rounds: medians, rates, score differences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.speed.arithmetic import LlmArithmetic
from vprm_benchmarks.speed.contenders import Contender
from vprm_benchmarks.speed.roofline import synchronize
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_benchmarks.speed.workload import Workload
from vprm_runtime import VprmError

FAILURES = (VprmError, RuntimeError, OSError, ValueError, ImportError, MemoryError, TypeError, AttributeError)


@dataclass
class Measurements:
    """Times and scores so far, by contender. `reference` is the name that scores are compared with: the first one."""

    works: dict[int, Workload]
    prefill_tokens: Sequence[int]
    times: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    pruned: dict[str, bool] = field(default_factory=dict)

    def rounds(self, contenders: Sequence[Contender], count: int, out_of_time: Callable[[], bool]) -> None:
        """`count` rounds in which every contender takes its turn, after one that warms up.

        Once out of time, rounds after the first measured one are left out.
        """
        self.pruned |= {one.name: one.pruned for one in contenders}
        calls: dict[tuple[str, str], Callable[[], object]] = {}
        for one in contenders:
            if one.name not in self.failed:
                try:
                    calls |= {(one.name, what): call for what, call in self._calls(one)}
                except FAILURES as error:
                    self._failed((one.name, "opening"), error)
        times = interleaved(calls, count, synchronize=synchronize, failed=self._failed, enough=out_of_time)
        for key, seconds in times.items():
            self.times.setdefault(key, []).extend(seconds)

    def _failed(self, key: tuple[str, str], error: Exception) -> bool:
        if not isinstance(error, FAILURES):
            return False
        self.failed.setdefault(key[0], f"{type(error).__name__}: {error}")
        return True

    def _calls(self, one: Contender) -> Iterator[tuple[str, Callable[[], object]]]:
        first = min(self.works)
        yield "vision", lambda: one.vision(self.works[first])
        for tokens in self.prefill_tokens:
            yield f"prefill {tokens}", one.prefill(tokens)
        for count in self.works:
            yield f"best of {count}", partial(self._score, one, count)

    def _score(self, one: Contender, count: int) -> None:
        scores = one.scores(self.works[count])
        if count == min(self.works):
            self.scores.setdefault(one.name, scores)

    def enter(self, entry: dict[str, Any], arithmetic: LlmArithmetic, peak_tflops: float) -> None:
        """Write a contender's medians, rates and differences into its result."""
        name = entry["name"]
        if name in self.failed:
            entry["failed"] = self.failed[name]
        times = {what: values for (who, what), values in self.times.items() if who == name and values}
        medians = {what: statistics.median(values) for what, values in times.items()}
        entry["ms"] = {what: round(seconds * 1e3, 3) for what, seconds in medians.items()}
        entry["rounds"] = max(map(len, times.values()), default=0)
        for tokens in self.prefill_tokens:
            if (seconds := medians.get(f"prefill {tokens}")) is not None:
                tflops = arithmetic.prefill_flops(tokens, pruned=self.pruned[name]) / seconds / 1e12
                entry.setdefault("prefill", {})[str(tokens)] = {
                    "tokens_per_s": round(tokens / seconds, 1),
                    "tflops": round(tflops, 3),
                    "fraction_of_peak": round(tflops / peak_tflops, 4),
                }
        if name in self.scores:
            difference = np.abs(self.scores[name] - next(iter(self.scores.values())))
            entry["difference_from_first"] = {"max": float(difference.max()), "mean": float(difference.mean())}
