"""TRL: rewards for GRPOTrainer and RLOOTrainer.

    trainer = GRPOTrainer(model, reward_funcs=reward_function("bundle/"), train_dataset=...)

Source: huggingface/trl @f2cd577, trl/trainer/grpo_trainer.py (how reward functions are called).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vprm.integrations.scoring import DEFAULT_REWARDS, Item, RewardOptions, images_in, is_missing, last_message, opened
from vprm_runtime.datasets.row_images import is_image_key
from vprm_runtime.errors import InputError
from vprm_runtime.prompt.chat_text import is_in_template


def reward_function(
    target: str | os.PathLike[str], options: RewardOptions = DEFAULT_REWARDS
) -> Callable[..., list[float | None]]:
    """A function for `reward_funcs`: response scores, and None for what cannot be scored, which TRL leaves out.

    Args:
        target: a bundle directory, or the URL of a `vprm serve`.
        options: how step scores become a reward.

    The question is the data set's column `question` if there is one, else the text of the last user message or the
    prompt itself; images are the columns `images` or `image`. Raises what `opened` raises, at once; the function raises
    InputError if images are in another column.
    """
    rewarder = opened(target, options)

    def vprm_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        question: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        image: Sequence[Any] | None = None,
        **others: Any,
    ) -> list[float | None]:
        count = len(completions)
        _check_no_images(others)
        questions = question if question is not None else [_question(prompt) for prompt in prompts]
        given = [None] * count if (found := _columns(images, image)) is None else found
        if not len(prompts) == len(questions) == len(given) == count:
            raise InputError(f"{count} completions, {len(questions)} questions, {len(given)} images: give as many")
        answers = [_text(completion, "assistant") for completion in completions]
        items = [Item(*parts) for parts in zip(map(_images, prompts, given), questions, answers, strict=True)]
        return rewarder.rewards(items)

    return vprm_reward


def _columns(images: Sequence[Any] | None, image: Sequence[Any] | None) -> Sequence[Any] | None:
    """The images of both columns, of which a row may fill one. Raises InputError if it fills both."""
    if images is None or image is None:
        return image if images is None else images
    if any(not is_missing(one) and not is_missing(other) for one, other in zip(images, image, strict=True)):
        raise InputError("the data set has images in both columns images and image: keep one of them")
    return [other if is_missing(one) else one for one, other in zip(images, image, strict=True)]


def _check_no_images(columns: Mapping[str, Any]) -> None:
    """Raise InputError if a column that is not read is named as images are: the text alone would be scored."""
    for name, values in columns.items():
        given = values if isinstance(values, list | tuple) else [values]
        if is_image_key(name) and not all(map(is_missing, given)):
            raise InputError(f"the data set has images in the column {name}, which is not read: name it images")


def _images(prompt: Any, given: Any) -> Any:
    """The images of a prompt: its columns', or those that its messages carry.

    If its messages stand for images that are in neither, one that no scorer takes, so that there is no reward: the
    text alone would give plausible numbers.
    """
    own, count = images_in(prompt)
    if not is_missing(given):
        return given
    return own if len(own) == count else [None]


def _question(prompt: Any) -> Any:
    """The question in a prompt; None if it has none, or stands in a chat template, which no scorer takes."""
    text = _text(prompt, "user")
    return None if isinstance(text, str) and is_in_template(text) else text


def _text(turns: Any, role: str) -> Any:
    """The text of a prompt or completion; None if it has none, which no scorer takes."""
    try:
        return turns if isinstance(turns, str) else last_message(turns, role)
    except InputError:
        return None
