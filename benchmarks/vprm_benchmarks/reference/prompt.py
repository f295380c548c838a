"""Question and steps to the one string that the model reads, and the places in its token ids where scores are read.

VisualPRM (its hub file ``modeling_internvl_chat.py``, class ``InternVLRewardModel``): every step is a user turn,
answered by '+'. MM-PRM (ModalMinds/MM-PRM @3b52c1e, ``InternVLChatModel.prm`` and ``data_pipeline/traverse.py``): an
empty user turn, then one assistant turn with question and steps, each step closed by ``<prm>``. Template internvl2_5
(OpenGVLab/InternVL @2410d1d ``conversation.py``): a turn whose text is empty is written as its header alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from typing import Literal

from vprm_benchmarks.reference.tokenizer import ReferenceTokenizer

ReferenceRule = Literal["visualprm", "mm-prm"]
ASSISTANT_HEADER = "<|im_start|>assistant\n"
CANDIDATE_TOKENS: dict[ReferenceRule, tuple[str, str]] = {"visualprm": ("+", "-"), "mm-prm": ("Yes", "No")}


def default_system_message() -> str:
    """The system message of template internvl2_5, used where config.json has none."""
    file = resources.files("vprm_benchmarks.reference").joinpath("internvl2_5_system_message.txt")
    return file.read_text(encoding="utf-8")


def split_steps(response: str | Sequence[str], max_steps: int | None = None) -> list[str]:
    """A response's steps: given as a list, or split on blank lines; more than ``max_steps`` are joined in equal
    groups."""
    steps = response.split("\n\n") if isinstance(response, str) else list(response)
    if max_steps is None or len(steps) <= max_steps:
        return steps
    group = math.ceil(len(steps) / max_steps)
    return ["\n\n".join(steps[start : start + group]) for start in range(0, len(steps), group)]


def conversation_text(
    rule: ReferenceRule, system: str, question: str, steps: Sequence[str], image_texts: Sequence[str]
) -> str:
    """The whole prompt as one string; ``image_texts`` (``<img>...</img>``, one a picture) replace ``<image>`` in
    order."""
    if image_texts and "<image>" not in question and rule == "visualprm":
        question = "<image>\n" * len(image_texts) + question
    turns: list[tuple[str, str]]
    if rule == "visualprm":
        turns = []
        for number, step in enumerate(steps):
            opening = f"### Question:\n{question}\n\n### Solution Process:\n" if number == 0 else ""
            turns += [("user", opening + step), ("assistant", "+")]
    else:
        process = "\n\n".join(f"{step}<prm>" for step in steps)
        text = f"Question: {question}\nProcess: {process}"
        if image_texts and "<image>" not in text:
            text = "<image>\n" * len(image_texts) + text
        turns = [("user", ""), ("assistant", text)]
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n"
    for role, text in turns:
        prompt += f"<|im_start|>{role}\n" + (f"{text}<|im_end|>\n" if text else "")
    for image_text in image_texts:
        prompt = prompt.replace("<image>", image_text, 1)
    return prompt


def find_score_positions(rule: ReferenceRule, token_ids: Sequence[int], tokenizer: ReferenceTokenizer) -> list[int]:
    """Indices into ``token_ids`` whose logits give the scores, one a step, found by searching for the tokens around
    them."""
    if rule == "mm-prm":
        marker = tokenizer.token_id("<prm>")
        return [index for index, token in enumerate(token_ids) if token == marker]
    header = tokenizer.encode(ASSISTANT_HEADER, add_bos=False)
    plus = candidate_ids(rule, tokenizer)[0]
    wanted = [*header, plus]
    starts = range(len(token_ids) - len(wanted) + 1)
    return [start + len(header) - 1 for start in starts if list(token_ids[start : start + len(wanted)]) == wanted]


def candidate_ids(rule: ReferenceRule, tokenizer: ReferenceTokenizer) -> tuple[int, int]:
    """Token ids of (correct, wrong); ValueError where one of the words is more than one token."""
    ids = []
    for word in CANDIDATE_TOKENS[rule]:
        encoded = tokenizer.encode(word, add_bos=False)
        if len(encoded) != 1:
            raise ValueError(
                f"candidate {word!r} is {len(encoded)} tokens for this tokenizer, expected one: choose another rule"
            )
        ids.append(encoded[0])
    return ids[0], ids[1]
