"""VLMEvalKit: the reward model of InternVLChat's best-of-N.

    model = InternVLChat(..., best_of_n=8)
    model.reward_model = RewardModel("bundle/")

Its caller passes tiles, not images: bfloat16, normalised. They are turned back into 8 bits per channel, which is not
exact (bfloat16 has 8 significant bits), so scores differ a little from the image's own; `image_of` avoids that.
Source: open-compass/VLMEvalKit @e8e78f0, vlmeval/vlm/internvl/internvl_chat.py.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm.integrations.scoring import RewardOptions, opened
from vprm_runtime.errors import InputError
from vprm_runtime.options import MODEL_CARD_MAX_STEPS
from vprm_runtime.scorer import StepScorer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as InternVL normalises


class RewardModel:
    """`select_best_response` as InternVLRewardModel has it. Threads may share it."""

    def __init__(
        self,
        target: str | os.PathLike[str],
        options: RewardOptions | None = None,
        image_of: Callable[[str], Any] | None = None,
    ) -> None:
        """Open a bundle directory, or connect to a `vprm serve` (then `image_of` is needed).

        Args:
            target: a bundle directory, or a URL.
            options: how steps become a score (default: at most 12 steps and their mean, as on the model card).
            image_of: gives the images of a question; without it they are made of the tiles.
        """
        self._options = options or RewardOptions(max_steps=MODEL_CARD_MAX_STEPS)
        self._rewarder, self._image_of = opened(target, self._options), image_of

    def select_best_response(
        self,
        tokenizer: Any,
        question: str,
        response_list: Sequence[str],
        pixel_values: Any = None,
        num_patches_list: Sequence[int] | None = None,
        **_: Any,
    ) -> list[str]:
        """Responses by score, best first; those that cannot be scored come last. Raises InputError if none can be.

        Args:
            tokenizer: not used: the bundle has its own.
            question: the question.
            response_list: the responses.
            pixel_values: tiles [T, 3, size, size], normalised; or None for text only.
            num_patches_list: number of tiles of each image (default: one image).
        """
        how, scorer = self._options, self._rewarder.scorer
        limits: dict[str, Any] = {"max_steps": how.max_steps, "aggregate": how.aggregate}
        if self._image_of is not None or pixel_values is None:
            images = None if self._image_of is None else self._image_of(question)
            result = scorer.score(images, question, list(response_list), max_tiles=how.max_tiles, **limits)
        elif isinstance(scorer, StepScorer):
            with scorer.session_of_tiles(tiles_of(pixel_values, num_patches_list), question) as session:
                result = session.score(list(response_list), **limits)
        else:
            raise InputError("a server takes images, not tiles: give image_of, or a bundle directory")
        if result.best is None:
            raise InputError(f"no response can be scored: {result.candidates[0].error}")
        left = [index for index in range(len(response_list)) if result.candidates[index].score is None]
        return [response_list[index] for index in [*result.ranking, *left]]


def tiles_of(pixel_values: Any, num_patches_list: Sequence[int] | None) -> list[NDArray[np.uint8]]:
    """Tiles of each image, uint8 [T, size, size, 3], of normalised ones [T, 3, size, size] (a tensor or an array)."""
    values = (
        pixel_values.float().cpu().numpy() if hasattr(pixel_values, "cpu") else np.asarray(pixel_values, np.float32)
    )
    scale = (np.array(STD, np.float32)[:, None, None], np.array(MEAN, np.float32)[:, None, None])
    pixels = np.rint((values * scale[0] + scale[1]) * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    counts = list(num_patches_list) if num_patches_list is not None else [len(pixels)]
    if sum(counts) != len(pixels):
        raise InputError(f"num_patches_list adds up to {sum(counts)}, there are {len(pixels)} tiles")
    return [np.ascontiguousarray(part) for part in np.split(pixels, np.cumsum(counts)[:-1])]
