"""How a model is asked and where its answer is read, as the reference understands it; read from the same kind of file.

VisualPRM (its hub file ``modeling_internvl_chat.py``, class ``InternVLRewardModel``): every step is a user turn,
answered by '+'; the score is read before the answer. MM-PRM (ModalMinds/MM-PRM @3b52c1e, ``InternVLChatModel.prm`` and
``data_pipeline/traverse.py``): an empty user turn, then one assistant turn with question and steps, each step closed by
the token ``<prm>``; the score is read at that token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReferenceRule:
    """``marker`` None: one user turn a step, each answered by ``reply``. Else: one assistant turn, a marker a step."""

    name: str
    first_turn: str  # {images} (if missing: directly before the question), {question} and, last, {step}
    step_joiner: str
    reply: str
    marker: str | None
    candidates: tuple[tuple[str, float], ...]  # (token, what it is worth as a score)
    default_system: bool = False  # the template's system message whatever config.json says


VISUALPRM = ReferenceRule(
    name="visualprm",
    first_turn="### Question:\n{images}{question}\n\n### Solution Process:\n{step}",
    step_joiner="\n\n",
    reply="+",
    marker=None,
    candidates=(("+", 1.0), ("-", 0.0)),
)
MM_PRM = ReferenceRule(
    name="mm-prm",
    first_turn="{images}Question: {question}\nProcess: {step}",
    step_joiner="\n\n",
    reply="",
    marker="<prm>",
    candidates=(("Yes", 1.0), ("No", 0.0)),
    default_system=True,
)
_BUILT_IN = {rule.name: rule for rule in (VISUALPRM, MM_PRM)}


def load_rule(name_or_file: str) -> ReferenceRule:
    """A built-in rule by its name, or one from a JSON file. ValueError names what is wrong and what is allowed."""
    if name_or_file in _BUILT_IN:
        return _BUILT_IN[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise ValueError(f"no score rule {name_or_file!r}: use {', '.join(_BUILT_IN)} or the path of a JSON file")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return ReferenceRule(
            name=document["name"],
            first_turn=document["first_turn"],
            step_joiner=document["step_joiner"],
            reply=document.get("reply", ""),
            marker=document.get("marker"),
            candidates=tuple((entry["text"], float(entry["weight"])) for entry in document["candidates"]),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no score rule ({error!r}): see docs/parity.md for its keys") from error
