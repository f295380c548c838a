"""slime: `--custom-rm-path vprm.integrations.slime.reward_func`; VPRM_TARGET names the PRM.

slime passes no image to rewards, so a sample's metadata, or its label as JSON, has the question and the image.
Source: THUDM/slime @624b824, slime/rollout/rm_hub.
"""

import asyncio
from typing import Any

from vprm.integrations.scoring import Item, context_of, from_environment
from vprm_runtime.errors import InputError
from vprm_runtime.prompt.chat_text import question_of_prompt, without_end_marker


async def reward_func(args: Any, sample: Any, **_: Any) -> float:
    """The response's score. Raises InputError if it cannot be scored: slime takes numbers only."""
    said, labelled = context_of(getattr(sample, "metadata", None)), context_of(sample.label)
    question = said.get("question") or labelled.get("question")
    images = said.get("images") or labelled.get("images")
    if labelled.get("images") and images != labelled["images"]:
        raise InputError("the sample's metadata and its label have different images: keep those of one")
    if not question and isinstance(sample.prompt, str):
        question = question_of_prompt(sample.prompt, "the sample's metadata")
    if not question:
        raise InputError('the sample has no question: give {"question": ..., "image": ...} as its metadata')
    item = Item(images, question, without_end_marker(sample.response))
    (reward,) = await asyncio.to_thread(from_environment().rewards, [item])
    if reward is None:
        raise InputError("the response has no reward: the log says why")
    return reward
