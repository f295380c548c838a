"""Interleaved rounds, and what becomes of their times: medians, rates, differences from the reference's scores."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.gpu.roofline import median_s
from vprm_benchmarks.speed.arithmetic import LlmArithmetic
from vprm_benchmarks.speed.contenders import Contender
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
        """`count` rounds in which every contender takes its turn, after one that warms up and whose scores are kept.

        Once out of time, rounds after the first measured one are left out.
        """
        for number in range(count + 1):
            if number > 1 and out_of_time():
                return
            for one in contenders:
                if one.name not in self.failed:
                    self._turn(one, number)

    def _turn(self, one: Contender, number: int) -> None:
        self.pruned[one.name] = one.pruned
        try:
            if number == 0 and one.name not in self.scores:
                self.scores[one.name] = one.scores(self.works[min(self.works)])
            for what, call in self._calls(one):
                seconds = median_s(call, repeats=1, warmups=0)
                if number:
                    self.times.setdefault((one.name, what), []).append(seconds)
        except FAILURES as error:
            self.failed[one.name] = f"{type(error).__name__}: {error}"

    def _calls(self, one: Contender) -> list[tuple[str, Callable[[], object]]]:
        first = self.works[min(self.works)]
        found: list[tuple[str, Callable[[], object]]] = [("vision", lambda: one.vision(first))]
        found += [(f"prefill {tokens}", one.prefill(tokens)) for tokens in self.prefill_tokens]
        found += [(f"best of {count}", lambda work=work: one.scores(work)) for count, work in self.works.items()]  # type: ignore[misc]
        return found

    def enter(self, entry: dict[str, Any], arithmetic: LlmArithmetic, peak_tflops: float) -> None:
        """Write a contender's medians, rates and differences into its result."""
        name = entry["name"]
        if name in self.failed:
            entry["failed"] = self.failed[name]
        medians = {what: statistics.median(values) for (who, what), values in self.times.items() if who == name}
        entry["ms"] = {what: round(seconds * 1e3, 3) for what, seconds in medians.items()}
        entry["rounds"] = max((len(values) for (who, _), values in self.times.items() if who == name), default=0)
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
