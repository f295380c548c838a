"""EasyR1: `worker.reward.reward_function=PATH/vprm/integrations/easyr1.py:compute_score`. VPRM_TARGET names the PRM.

EasyR1 passes neither question nor image, so `ground_truth` is JSON: {"question": ..., "image": path, "answer": ...}.
Source: hiyouga/EasyR1 @b44b311, verl/workers/reward/function.py (the batch form).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vprm.integrations.scoring import Item, context_of, from_environment
from vprm_runtime.errors import InputError

REWARD_NAME = "vprm"
REWARD_TYPE = "batch"


def compute_score(reward_inputs: Sequence[Mapping[str, Any]], **_: Any) -> list[dict[str, float]]:
    """`{"overall": score}` for each response; NaN if it cannot be scored. Raises InputError without a question."""
    items = []
    for given in reward_inputs:
        context = context_of(given["ground_truth"])
        if not context.get("question"):
            raise InputError(
                'ground_truth has no question: make it JSON, {"question": ..., "image": ..., "answer": ...}'
            )
        items.append(Item(context["images"], context["question"], given["response"]))
    return [{"overall": math.nan if reward is None else reward} for reward in from_environment().rewards(items)]
