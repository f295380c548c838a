"""ms-swift: a plug-in file for `--external_plugins`, used with `--prm_model vprm`:

    from swift.rewards import prms
    from vprm.integrations.ms_swift import prm_class
    prms["vprm"] = prm_class("bundle/")

Source: modelscope/ms-swift @3602360, swift/rewards/prm.py and swift/pipelines/sampling/utils.py.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from vprm.integrations.scoring import DEFAULT_REWARDS, Item, RewardOptions, last_message, opened


def prm_class(target: str | os.PathLike[str], options: RewardOptions = DEFAULT_REWARDS) -> type[Any]:
    """A subclass of ms-swift's `PRM`; called with requests, it gives response scores, NaN for what cannot be scored.

    The question is the last user message, the response the last message of the assistant. Images are a request's
    `images`, or image parts of its messages.
    """
    from swift.rewards.prm import PRM  # type: ignore[import-not-found]  # the library whose plug this is

    rewarder = opened(target, options)

    class VprmPRM(PRM):  # type: ignore[misc]
        """Step scores of a visual PRM."""

        def __init__(self, *_: Any, **__: Any) -> None:
            """ms-swift gives versions of its own arguments."""

        def __call__(self, infer_requests: Sequence[Any], ground_truths: Sequence[Any] = (), **_: Any) -> list[float]:
            """Response scores of requests that end in the response."""
            rewards = rewarder.rewards([item_of(request) for request in infer_requests])
            return [math.nan if reward is None else reward for reward in rewards]

    return VprmPRM


def item_of(request: Any) -> Item:
    """What a request asks to be scored. Raises InputError if it has no question or no response."""
    given = request if isinstance(request, Mapping) else vars(request)
    messages = given["messages"]
    question, response = last_message(messages, "user"), last_message(messages, "assistant")
    images = list(given.get("images") or []) or [image for message in messages for image in _images(message)]
    return Item(images, question, response)


def _images(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    if isinstance(content, str) or not isinstance(content, Sequence):
        return []
    return [part["image"] for part in content if isinstance(part, Mapping) and part.get("image")]
