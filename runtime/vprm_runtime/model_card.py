"""`select_best_response` with the semantics of VisualPRM's model card, for people who move over."""

from collections.abc import Sequence
from typing import Literal, overload

from vprm_runtime.errors import InputError
from vprm_runtime.images.load import ImageInput
from vprm_runtime.inputs import list_of
from vprm_runtime.options import MODEL_CARD_MAX_STEPS
from vprm_runtime.prompt.builder import Response
from vprm_runtime.scorer import StepScorer


@overload
def select_best_response(
    scorer: StepScorer,
    question: str,
    response_list: Sequence[Response],
    images: ImageInput | Sequence[ImageInput] | None = None,
    *,
    max_steps: int | None = MODEL_CARD_MAX_STEPS,
    return_scores: Literal[False] = False,
) -> list[Response]: ...


@overload
def select_best_response(
    scorer: StepScorer,
    question: str,
    response_list: Sequence[Response],
    images: ImageInput | Sequence[ImageInput] | None = None,
    *,
    max_steps: int | None = MODEL_CARD_MAX_STEPS,
    return_scores: Literal[True],
) -> list[tuple[Response, float]]: ...


def select_best_response(
    scorer: StepScorer,
    question: str,
    response_list: Sequence[Response],
    images: ImageInput | Sequence[ImageInput] | None = None,
    *,
    max_steps: int | None = MODEL_CARD_MAX_STEPS,
    return_scores: bool = False,
) -> list[Response] | list[tuple[Response, float]]:
    """Sort responses by mean step score, best first, as the call of that name on VisualPRM's model card does.

    Source: InternVLRewardModel.select_best_response, published with VisualPRM-8B. Deliberate differences: images
    instead of pixel values, a scorer instead of model and tokenizer, duplicates kept, and an InputError instead of a
    ranking if a response cannot be scored.

    Args:
        scorer: an open scorer.
        question: what the responses answer.
        response_list: responses, each a string or a list of steps.
        images: as for `StepScorer.score`.
        max_steps: join consecutive steps so that a response has at most this many (default: 12, as on the model card;
            `StepScorer.score` has no limit). None: no limit.
        return_scores: also return the scores.

    Returns:
        The responses, best first; with `return_scores`, (response, score) pairs.

    Raises:
        InputError: a response or the question cannot be scored.
        EngineError: the engine failed.
    """
    given = list_of(response_list, "response_list")
    result = scorer.score(images, question, given, max_steps=max_steps)
    for candidate in result.candidates:
        if candidate.error is not None:
            raise InputError(f"response {candidate.index} cannot be ranked: {candidate.error}")
    pairs = [(given[index], result.candidates[index].score or 0.0) for index in result.ranking]
    return pairs if return_scores else [response for response, _ in pairs]
