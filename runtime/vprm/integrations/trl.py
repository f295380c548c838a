"""TRL: rewards for GRPOTrainer and RLOOTrainer.

    trainer = GRPOTrainer(model, reward_funcs=reward_function("bundle/"), train_dataset=...)

Source: huggingface/trl @f2cd577, trl/trainer/grpo_trainer.py (how reward functions are called).
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from vprm.integrations.scoring import DEFAULT_REWARDS, Item, RewardOptions, last_message, opened
from vprm_runtime.errors import InputError


def reward_function(
    target: str | os.PathLike[str], options: RewardOptions = DEFAULT_REWARDS
) -> Callable[..., list[float | None]]:
    """A function for `reward_funcs`: response scores, and None for what cannot be scored, which TRL leaves out.

    Args:
        target: a bundle directory, or the URL of a `vprm serve`.
        options: how step scores become a reward.

    The question is the data set's column `question` if there is one, else the text of the last user message or the
    prompt itself; images are the columns `images` or `image`. Raises what `opened` raises, at once.
    """
    rewarder = opened(target, options)

    def vprm_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        question: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        image: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float | None]:
        count = len(completions)
        questions = question if question is not None else [_text(prompt, "user") for prompt in prompts]
        given = images if images is not None else image if image is not None else [None] * count
        if not len(prompts) == len(questions) == len(given) == count:
            raise InputError(f"{count} completions, {len(questions)} questions, {len(given)} images: give as many")
        answers = [_text(completion, "assistant") for completion in completions]
        return rewarder.rewards([Item(*parts) for parts in zip(given, questions, answers, strict=True)])

    return vprm_reward


def _text(turns: Any, role: str) -> Any:
    """The text of a prompt or completion; None if it has none, which no scorer takes."""
    try:
        return turns if isinstance(turns, str) else last_message(turns, role)
    except InputError:
        return None
