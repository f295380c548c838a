"""verl: `custom_reward_function.path=.../vprm/integrations/verl.py`, `.name=compute_score`; VPRM_TARGET names the PRM.

`extra_info` has the question and the images: verl passes neither. Source: volcengine/verl @b178a3c,
verl/workers/reward_manager/naive.py and batch.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vprm.integrations.scoring import Item, context_of, from_environment
from vprm_runtime.errors import InputError


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> float:
    """The response's score; NaN if it cannot be scored. Raises InputError if `extra_info` has no question."""
    return compute_scores([data_source], [solution_str], [ground_truth], [extra_info])[0]


def compute_scores(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None],
    **_: Any,
) -> list[float]:
    """The same for the batch reward manager: responses to one question share its prefix."""
    items = []
    for solution, info in zip(solution_strs, extra_infos, strict=True):
        context = context_of(info)
        if not context.get("question"):
            raise InputError("extra_info has no question: keep it there when the data set is made")
        items.append(Item(context["images"], context["question"], solution))
    return [math.nan if reward is None else reward for reward in from_environment().rewards(items)]
