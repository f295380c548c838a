"""From logits to step scores, and from step scores to a response score."""

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
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    weights = np.array([candidate.weight for candidate in rule.candidates])
    scores: NDArray[np.float64] = shifted @ weights / shifted.sum(axis=1)
    return scores


def response_result(
    index: int, steps: Sequence[str], scores: NDArray[np.float64], aggregate: Aggregate
) -> CandidateScore:
    """The result of a response whose steps have these scores, float64 [steps]."""
    step_scores = tuple(StepScore(text, float(score)) for text, score in zip(steps, scores, strict=True))
    return CandidateScore(index, aggregate_scores([step.score for step in step_scores], aggregate), step_scores)
