"""Question and steps to the one string that the model reads, and the places in its token ids where scores are read.

Template internvl2_5 (OpenGVLab/InternVL @2410d1d ``conversation.py``): a turn whose text is empty is written as its
header alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources

from vprm_benchmarks.reference.rule import ReferenceRule
from vprm_benchmarks.reference.tokenizer import ReferenceTokenizer

ASSISTANT_HEADER = "<|im_start|>assistant\n"


def default_system_message() -> str:
    """The system message of template internvl2_5, used if config.json has none."""
    file = resources.files("vprm_benchmarks.reference").joinpath("internvl2_5_system_message.txt")
    return file.read_text(encoding="utf-8")


def split_steps(response: str | Sequence[str], max_steps: int | None = None, joiner: str = "\n\n") -> list[str]:
    """A response's steps: given as a list, or split on blank lines; too many are joined in groups of equal length."""
    steps = response.split(joiner) if isinstance(response, str) else list(response)
    if max_steps is None or len(steps) <= max_steps:
        return steps
    group = math.ceil(len(steps) / max_steps)
    return [joiner.join(steps[start : start + group]) for start in range(0, len(steps), group)]


def conversation_text(
    rule: ReferenceRule, system: str, question: str, steps: Sequence[str], image_texts: Sequence[str]
) -> str:
    """The whole prompt as one string; ``image_texts`` (``<img>...</img>``, one an image) replace ``<image>``s."""
    in_front = "" if "<image>" in question else "<image>\n" * len(image_texts)
    opening = rule.first_turn.removesuffix("{step}")
    if "{images}" not in opening:
        opening = opening.replace("{question}", "{images}{question}")
    opening = opening.replace("{images}", in_front).replace("{question}", question)
    turns: list[tuple[str, str]] = []
    if rule.marker is None:
        for number, step in enumerate(steps):
            turns += [("user", opening + step if number == 0 else step), ("assistant", rule.reply)]
    else:
        process = rule.step_joiner.join(step + rule.marker for step in steps)
        turns = [("user", ""), ("assistant", opening + process)]
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n"
    for role, text in turns:
        prompt += f"<|im_start|>{role}\n" + (f"{text}<|im_end|>\n" if text else "")
    for image_text in image_texts:
        prompt = prompt.replace("<image>", image_text, 1)
    return prompt


def find_score_positions(rule: ReferenceRule, token_ids: Sequence[int], tokenizer: ReferenceTokenizer) -> list[int]:
    """Indices into ``token_ids`` whose logits give the scores, one a step, found by searching for the tokens there."""
    if rule.marker is not None:
        marker = tokenizer.token_id(rule.marker)
        return [index for index, token in enumerate(token_ids) if token == marker]
    header = tokenizer.encode(ASSISTANT_HEADER, add_bos=False)
    wanted = [*header, *_within_a_prompt(tokenizer, rule.reply)]
    starts = range(len(token_ids) - len(wanted) + 1)
    return [start + len(header) - 1 for start in starts if list(token_ids[start : start + len(wanted)]) == wanted]


def candidate_ids(rule: ReferenceRule, tokenizer: ReferenceTokenizer) -> list[int]:
    """Token ids of the rule's candidates; ValueError if one of the words is more than one token."""
    ids = []
    for word, _ in rule.candidates:
        encoded = _within_a_prompt(tokenizer, word)
        if len(encoded) != 1:
            raise ValueError(f"candidate {word!r} is {len(encoded)} tokens, expected one: choose another score rule")
        ids.append(encoded[0])
    return ids


def _within_a_prompt(tokenizer: ReferenceTokenizer, text: str) -> list[int]:
    """Token ids of ``text`` after a control token: Llama's tokenizers put a blank in front of a prompt's beginning."""
    return tokenizer.encode(f"<|im_end|>{text}", add_bos=False)[1:]
