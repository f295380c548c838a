"""OpenRLHF: `--reward.remote_url .../vprm/integrations/openrlhf.py`; VPRM_TARGET names the PRM.

Over HTTP, `vprm serve` answers `--reward.remote_url http://host:8000/get_reward` itself. OpenRLHF sends no image, so
the label is JSON: {"question": ..., "image": path, "answer": ...}. Source: OpenRLHF/OpenRLHF @3c3be62, utils/agent.py.
"""

from collections.abc import Sequence
from typing import Any

from vprm.integrations.scoring import Item, context_of, from_environment
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.prompt.chat_text import question_of_prompt, without_end_marker


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any) -> dict[str, Any]:
    """Rewards and scores: the response scores. Raises InputError if one cannot be scored; OpenRLHF then has no reward.

    A query is a prompt and its response. The question is the label's, or the prompt if it has no chat template.
    """
    items = [_item(*given) for given in zip(queries, prompts, labels, strict=True)]
    rewards = from_environment().rewards(items)
    if None in rewards:
        raise InputError(f"{rewards.count(None)} of {len(rewards)} responses have no reward: the log says why")
    return {"rewards": rewards, "scores": list(rewards), "extra_logs": {}}


def _item(query: str, prompt: str, label: Any) -> Item:
    if not query.startswith(prompt):
        raise InputError(f"the query does not begin with its prompt: {quoted(query, 80)}")
    response, context = without_end_marker(query[len(prompt) :]), context_of(label)
    question = context.get("question") or question_of_prompt(prompt, "the label, as JSON")
    return Item(context.get("images"), question, response)
