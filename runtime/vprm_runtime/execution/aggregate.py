"""From step scores to a response score. Source of the set: VisualPRM paper (arXiv 2503.10291) and its users."""

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Literal, get_args

Aggregate = Literal["mean", "min", "last", "product", "max"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)

_FUNCTIONS: MappingProxyType[Aggregate, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "mean": lambda scores: math.fsum(scores) / len(scores),
        "min": min,
        "last": lambda scores: scores[-1],
        "product": math.prod,
        "max": max,
    }
)


def aggregate_scores(step_scores: Sequence[float], how: Aggregate = "mean") -> float:
    """Response score in [0, 1] from at least one step score in [0, 1]."""
    return _FUNCTIONS[how](step_scores)
