"""search-and-learn: a PRM for best-of-N, beam search and DVTS.

    prm = StepPRM("bundle/")     # in place of load_prm(config)
    dataset.map(best_of_n, batched=True, fn_kwargs={"config": config, "llm": llm, "prm": prm})

Source: huggingface/search-and-learn @6f81cac, src/sal/models/reward_models.py (`PRM.score`).
"""

import math
import os
from collections.abc import Sequence
from typing import Any

from vprm.integrations.scoring import DEFAULT_REWARDS, Item, RewardOptions, opened


class StepPRM:
    """The interface of search-and-learn's `PRM`. Threads may share it."""

    def __init__(self, target: str | os.PathLike[str], options: RewardOptions = DEFAULT_REWARDS) -> None:
        """Open a bundle directory, or connect to a `vprm serve`. Raises what `opened` raises."""
        self._rewarder = opened(target, options)

    def score(
        self, questions: Sequence[str], outputs: Sequence[Sequence[str]], images: Sequence[Any] | None = None
    ) -> list[list[list[float]]]:
        """Step scores of each output of each question; [NaN] for an output that cannot be scored.

        `images` are each question's (the library itself is text only).
        """
        given = [None] * len(questions) if images is None else images
        items = [
            Item(image, question, output)
            for question, answers, image in zip(questions, outputs, given, strict=True)
            for output in answers
        ]
        found = iter(self._rewarder.candidates(items))
        steps = (candidate.step_scores.tolist() if candidate else [math.nan] for candidate in found)
        return [[next(steps) for _ in answers] for answers in outputs]
