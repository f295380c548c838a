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

from vprm.integrations.scoring import DEFAULT_REWARDS, Item, RewardOptions, images_in, last_message, opened
from vprm_runtime.errors import InputError


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
    """What a request asks to be scored. What it lacks is None, which no scorer takes; so is an image that its messages
    stand for and that it has not, since the text alone would give plausible numbers.
    """
    given = request if isinstance(request, Mapping) else vars(request)
    messages = given["messages"]
    own, count = images_in(messages)
    images = list(given.get("images") or []) or own
    if len(images) < count:
        images = [*images, None]
    return Item(images, *(_text(messages, role) for role in ("user", "assistant")))


def _text(messages: Any, role: str) -> Any:
    try:
        return last_message(messages, role)
    except InputError:
        return None
