"""From seconds at two depths to those at another one: a straight line and its error bar, or an error."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Depths:
    """Numbers of layers: of the two runs, and of the model that is meant."""

    half: int
    full: int
    wanted: int

    def at(self, half: float, full: float) -> float:
        """What is `half` and `full` at the two depths, on a line to the wanted one."""
        return full + (self.wanted - self.full) * (full - half) / (self.full - self.half)


@dataclass(frozen=True)
class Extrapolated:
    """Seconds at the wanted depth. The error bar has the middle half of the lines through every pair of rounds."""

    seconds: float
    low_s: float
    high_s: float

    def __add__(self, other: Extrapolated) -> Extrapolated:
        return Extrapolated(self.seconds + other.seconds, self.low_s + other.low_s, self.high_s + other.high_s)


def extrapolated(depths: Depths, half_s: Sequence[float], full_s: Sequence[float]) -> Extrapolated:
    """The line through the medians of both depths' rounds.

    Raises ValueError if there are too few rounds, or if more layers did not take longer: noise was larger than what a
    layer takes, and a line through it means nothing.
    """
    if min(len(half_s), len(full_s)) < LEAST_ROUNDS:
        raise ValueError(f"{min(len(half_s), len(full_s))} rounds are too few to extrapolate: use --rounds 3 or more")
    lines = sorted(depths.at(half, full) for half, full in product(half_s, full_s))
    low, _, high = statistics.quantiles(lines, n=4)
    half, full = statistics.median(half_s), statistics.median(full_s)
    if half >= full:
        raise ValueError(
            f"{depths.full} layers took {full:.3g} s and {depths.half} took {half:.3g} s: the machine was too busy, or "
            "the rounds too few; measure again with more --rounds or more --layers"
        )
    return Extrapolated(depths.at(half, full), low, high)
