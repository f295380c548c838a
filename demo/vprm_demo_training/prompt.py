"""Token ids of scoring prompts, with the places where losses are taken. The format is InternVL's `internvl2_5`
template.

Source: OpenGVLab/InternVL @2410d1d, `internvl_chat/internvl/conversation.py` and the `InternVLRewardModel` file of
the hub models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sentencepiece

from vprm_demo.generator.types import Step

from .tokenizer import ADDED_TOKENS, CONTROL_TOKENS, SYSTEM_MESSAGE

_DIGIT = re.compile(r"(\d)")


@dataclass
class Prompt:
    """A tokenised row. Positions index `ids`; a position's targets belong to the model's output *at* that position."""

    ids: list[int] = field(default_factory=list)
    image_start: int = 0
    scores: list[int] = field(default_factory=list)
    """Positions whose '+'/'-' logits are the steps' scores."""
    labels: list[int] = field(default_factory=list)
    """1, -1 or 0 a step."""
    readings: list[tuple[int, int]] = field(default_factory=list)
    """(position before a claimed token, id of the true token)."""
    verdicts: list[tuple[int, bool]] = field(default_factory=list)
    """(position of a claimed token, whether it contradicts the truth)."""


class Tokenizer:
    """Encodes text piece by piece (cached), as encoding it in one go would, and builds prompts."""

    def __init__(self, folder: Path) -> None:
        self.sp = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
        pieces = self.sp.get_piece_size()
        self.control = {name: pieces - len(CONTROL_TOKENS) + index for index, name in enumerate(CONTROL_TOKENS)}
        self.added = {name: pieces + index for index, name in enumerate(ADDED_TOKENS)}
        self.vocab_size = pieces + len(self.added)
        self.plus, self.minus = self.sp.piece_to_id("+"), self.sp.piece_to_id("-")
        self._cache: dict[str, list[int]] = {}
        self.im_start, self.im_end = self.control["<|im_start|>"], self.control["<|im_end|>"]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; it never yields control tokens here, as generated text holds no bracketed names."""
        ids = self._cache.get(text)
        if ids is None:
            ids = self._cache[text] = list(self.sp.encode(text))
        return ids

    def _append_step(self, prompt: Prompt, lead: str, step: Step) -> None:
        """Text of a step after `lead`; cut at digits, which no piece joins with anything."""
        plain = lead
        for segment in step.segments:
            if isinstance(segment, str):
                plain += segment
                continue
            digits = segment.stated.isdigit()
            if not digits and plain.endswith(" "):
                plain = plain[:-1]
            self._append_text(prompt, plain)
            plain = ""
            space = "" if digits else " "
            stated, true = (self._claim_ids(space + text) for text in (segment.stated, segment.true))
            start = len(prompt.ids)
            for index, token in enumerate(stated):
                aligned = len(stated) == len(true)
                if index == 0 or aligned:
                    prompt.readings.append((start + index - 1, true[index]))
                prompt.verdicts.append((start + index, token != true[index] if aligned else True))
            prompt.ids += stated
        self._append_text(prompt, plain)

    def _claim_ids(self, text: str) -> list[int]:
        return [self.encode(digit)[0] for digit in text] if text.isdigit() else self.encode(text)

    def _append_text(self, prompt: Prompt, text: str) -> None:
        for part in _DIGIT.split(text):
            if part:
                prompt.ids += self.encode(part)

    def start(self, question: str, n_tiles: int, tokens_per_tile: int) -> Prompt:
        """A prompt up to and including the question; steps follow through `add_step`."""
        prompt = Prompt(ids=[self.sp.bos_id(), self.im_start])
        prompt.ids += self.encode(f"system\n{SYSTEM_MESSAGE}")
        prompt.ids += [self.im_end, *self.encode("\n"), self.im_start, *self.encode("user\n")]
        if n_tiles:
            prompt.ids.append(self.added["<img>"])
            prompt.image_start = len(prompt.ids)
            prompt.ids += [self.added["<IMG_CONTEXT>"]] * (n_tiles * tokens_per_tile) + [self.added["</img>"]]
        self._append_text(prompt, f"\n### Question:\n{question}\n\n### Solution Process:\n")
        return prompt

    def add_step(self, prompt: Prompt, step: Step) -> None:
        """Append a step's user turn and the assistant turn that holds its score position and a '+'."""
        if prompt.scores:
            prompt.ids += [self.im_end, *self.encode("\n"), self.im_start]
            self._append_step(prompt, "user\n", step)
        else:
            self._append_step(prompt, "", step)
        prompt.ids += [self.im_end, *self.encode("\n"), self.im_start, *self.encode("assistant\n")]
        prompt.scores.append(len(prompt.ids) - 1)
        prompt.labels.append(step.label)
        prompt.ids.append(self.plus)

    def prompt(self, question: str, steps: Sequence[Step], n_tiles: int, tokens_per_tile: int) -> Prompt:
        """A whole prompt."""
        prompt = self.start(question, n_tiles, tokens_per_tile)
        for step in steps:
            self.add_step(prompt, step)
        return prompt
