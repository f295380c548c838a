"""From logits to step scores, and from step scores to a response score."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.errors import EngineError
from vprm_runtime.execution.aggregate import Aggregate, aggregate_scores
from vprm_runtime.prompt.score_rule import ScoreRule
from vprm_runtime.results import CandidateScore, StepScore


def probabilities(logits: NDArray[np.float32], rule: ScoreRule) -> NDArray[np.float64]:
    """Step scores [K] from candidate-token logits [K, C]: softmax in float64, weighted by the rule's candidates.

    Raises EngineError if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise EngineError(
            "the LLM graph gave logits that are not finite: its precision overflows on this input; "
            "export the checkpoint as fp32",
            code="not_finite",
        )
    weights = [candidate.weight for candidate in rule.candidates]
    return np.array([_weighted_softmax(row, weights) for row in logits.tolist()], np.float64)


def _weighted_softmax(logits: list[float], weights: list[float]) -> float:
    """In plain order with the C library's exp, so that libvprm's scores have the same digits."""
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    weighted = total = 0.0
    for power, weight in zip(powers, weights, strict=True):
        weighted += power * weight
        total += power
    return weighted / total


def response_result(
    index: int, steps: Sequence[str], scores: NDArray[np.float64], aggregate: Aggregate
) -> CandidateScore:
    """The result of a response whose steps have these scores, float64 [steps]."""
    step_scores = tuple(StepScore(text, float(score)) for text, score in zip(steps, scores, strict=True))
    return CandidateScore(index, aggregate_scores([step.score for step in step_scores], aggregate), step_scores)
