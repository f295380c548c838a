"""The prompt, built turn by turn, with score positions recorded while building.

Source: OpenGVLab/InternVL @2410d1d, template `internvl2_5` of internvl_chat/internvl/conversation.py (MPT style) and
the InternVLRewardModel published with VisualPRM. There the prompt is one string, tokenised whole, and the score
positions are found in the ids afterwards. Here control tokens are emitted by id and each stretch of text between two
of them is tokenised alone, which gives the same ids on benign text and cannot be forged by hostile text. Layouts of
other PRMs: see score_rule.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from vprm_runtime.bundle.manifest import ControlTokens, PromptInfo
from vprm_runtime.errors import InputError
from vprm_runtime.inputs import text_of
from vprm_runtime.prompt.image_markers import IMAGE_PLACEHOLDER, check_no_lost_image
from vprm_runtime.prompt.score_rule import ScoreRule
from vprm_runtime.prompt.tokenizer import TextTokenizer

Response = str | Sequence[str]  # text that is split into steps, or the steps


@dataclass(frozen=True)
class TokenisedPrompt:
    """Token ids of a whole prompt and the positions whose logits give its steps' scores, one a step, in order."""

    ids: tuple[int, ...]
    score_positions: tuple[int, ...]


class PromptBuilder:
    """Builds prompts of one model: its template, control tokens, score rule and image tokens per tile."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        control: ControlTokens,
        prompt: PromptInfo,
        score_rule: ScoreRule,
        tokens_per_tile: int,
    ) -> None:
        tokenizer.check_known((one.id for one in score_rule.candidates), "score_rule: candidates")
        self._encode = tokenizer.encode
        self._check_length, self._check_tokens = tokenizer.check_length, tokenizer.check_tokens
        self._control = control
        self._rule = score_rule
        self._tokens_per_tile = tokens_per_tile
        self._newline = self._encode("\n")
        self._reply = self._encode(score_rule.reply)
        self._assistant_header = [control.im_start, *self._encode("assistant\n")]
        bos = [control.bos] if control.bos is not None else []
        self._system_turn = [*bos, *self._closed(self._open_turn("system", [prompt.system_message]))]
        self._marked_start = [*self._system_turn, *self._open_turn("user", [])]  # a rule with a marker: no user text

    def prefix(self, question: str, tiles: Sequence[int]) -> list[int]:
        """Ids up to where the first step's text starts: the same for all candidates of an (image, question).

        `tiles` has the number of tiles of each image. The first step may merge with the prefix's last characters
        into other tokens, so what two prompts really share is their common prefix of ids.
        """
        start, role = (self._system_turn, "user") if self._rule.marker_id is None else (self._marked_start, "assistant")
        return [*start, *self._open_turn(role, self._first_turn(question, "", tiles))]

    def build(self, question: str, tiles: Sequence[int], steps: Sequence[str]) -> TokenisedPrompt:
        """The whole prompt of one candidate. Raises InputError on a blank question, or image placeholders that are
        not as many as the images."""
        self._check_length(question if isinstance(question, str) else "", *steps)
        if self._rule.marker_id is not None:
            return self._build_marked(question, tiles, steps, self._rule.marker_id)
        ids = list(self._system_turn)
        score_positions = []
        for number, step in enumerate(steps):
            pieces = self._first_turn(question, step, tiles) if number == 0 else [step]
            ids += self._turn("user", pieces)
            ids += self._assistant_header
            score_positions.append(len(ids) - 1)
            if number:
                self._check_tokens(len(ids))
            ids += [*self._reply, self._control.im_end, *self._newline]
        return TokenisedPrompt(tuple(ids), tuple(score_positions))

    def _build_marked(
        self, question: str, tiles: Sequence[int], steps: Sequence[str], marker_id: int
    ) -> TokenisedPrompt:
        """One assistant turn with question and steps, a marker after each step."""
        ids = [*self._marked_start, *self._open_turn("assistant", self._first_turn(question, steps[0], tiles))]
        score_positions = []
        for number, step in enumerate(steps):
            ids += self._encode(self._rule.step_joiner + step) if number else []
            score_positions.append(len(ids))
            ids.append(marker_id)
            if number:
                self._check_tokens(len(ids))
        return TokenisedPrompt((*ids, self._control.im_end, *self._newline), tuple(score_positions))

    def _first_turn(self, question: str, step: str, tiles: Sequence[int]) -> list[str | int]:
        """Text and, for each image, its number of tiles."""
        question = cast(str, text_of(question))
        if not isinstance(question, str):
            raise InputError(f"the question must be text, got {type(question).__name__}")
        self._check_length(question)
        if not question.strip():
            raise InputError("the question is empty: give the text that the responses answer")
        placeholders = question.count(IMAGE_PLACEHOLDER)
        in_front = "" if placeholders else f"{IMAGE_PLACEHOLDER}\n" * len(tiles)
        if placeholders and placeholders != len(tiles):  # the original asserts that both are equal
            raise InputError(
                f"the question has {placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(tiles)} images: give one "
                "for each image, or none to put all images in front"
            )
        if not tiles:
            check_no_lost_image(question)
        head, tail = self._rule.first_turn.split("{question}")
        head = head.replace("{images}", in_front) if "{images}" in head else head + in_front
        parts = (head + question).split(IMAGE_PLACEHOLDER)
        parts[-1] += tail.removesuffix("{step}") + step
        pieces: list[str | int] = [parts[0]]
        for count, text in zip(tiles, parts[1:], strict=True):
            pieces += [count, text]
        return pieces

    def _turn(self, role: str, pieces: Sequence[str | int]) -> list[int]:
        """A closed turn. One without text has the role header alone: the original takes '' for "no message yet"."""
        if list(pieces) == [""]:
            return self._open_turn(role, pieces)
        return self._closed(self._open_turn(role, pieces))

    def _closed(self, ids: Sequence[int]) -> list[int]:
        return [*ids, self._control.im_end, *self._newline]

    def _open_turn(self, role: str, pieces: Sequence[str | int]) -> list[int]:
        """Role header and content, no end: stretches of text between control tokens are tokenised whole."""
        ids = [self._control.im_start]
        text = f"{role}\n"
        for piece in pieces:
            if isinstance(piece, str):
                text += piece
                continue
            image = [self._control.img_context] * (self._tokens_per_tile * piece)
            ids += [*self._encode(text), self._control.img_start, *image, self._control.img_end]
            text = ""
        return [*ids, *self._encode(text)]
