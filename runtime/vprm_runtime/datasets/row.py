"""One record of a data set becomes a row: what to score, and the labels to keep beside the scores.

A record's kind is recognised by its keys, looked for in this order:

| kind          | keys                                       | responses   | labels beside the general ones        |
|---------------|--------------------------------------------|-------------|---------------------------------------|
| rows          | question, responses                        | as given    |                                       |
| raw steps     | question, steps_with_score [{step, score}] | its steps   | process_correctness (1 iff score > 0) |
| preference    | question, chosen, rejected                 | both        | chosen, rejected: their indices       |
| process bench | question, response {steps, ...}            | its steps   | process_correctness                   |
| one response  | question, response (text)                  | the one     |                                       |
| conversation  | conversations [{from, value}]              | human turns | process_correctness, from the answers |

Sources: OpenGVLab/VisualProcessBench (test.jsonl), OpenGVLab/VisualPRM400K-v1.1-Raw and its conversation form,
OpenGVLab/MMPR. General labels are answer, correct, process_correctness, policy_model and data_source, where present.
In a row `process_correctness` has a list for each response, whatever the record had.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from vprm_runtime.datasets.row_images import (
    RowImage,
    check_no_image_stated,
    images_of,
    is_empty,
    is_image_key,
)
from vprm_runtime.datasets.row_keys import CONTENT, ELSEWHERE, KNOWN_KEYS, LIMITS, OPTIONS
from vprm_runtime.datasets.row_labels import checked_labels, step_labels, verdicts
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.options import ScoreOptions
from vprm_runtime.prompt.builder import Response
from vprm_runtime.prompt.image_markers import remark_on_marks

Record = Mapping[str, Any]
RowId = str | int

_QUESTION_HEADER = "### Question:\n"
_SOLUTION_HEADER = "\n\n### Solution Process:\n"
_VERDICTS = {"+": 1, "-": -1}
_SPEAKERS = ("system", "human", "gpt")


@dataclass(frozen=True)
class Row:
    """A question about zero, one or several images, and the responses to score. Paths are resolved, not yet opened.

    `number` is the row's place in its file, from 0. `label_error` says what is wrong with the labels, which are left
    out then: the row can be scored all the same. `unread` are keys that nothing was read from, `remarks` what else a
    user should know.
    """

    id: RowId
    images: tuple[RowImage, ...]
    question: str
    responses: tuple[Response, ...]
    max_steps: int | None = None
    max_tiles: int | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    label_error: str | None = None
    unread: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def options(self, base: ScoreOptions) -> ScoreOptions:
        """The row's scoring options: of its own limits and those of `base` the smaller."""
        return replace(
            base,
            max_steps=_smaller(self.max_steps, base.max_steps),
            max_tiles=_smaller(self.max_tiles, base.max_tiles),
        )

    @cached_property
    def group_key(self) -> bytes:
        """16 bytes that are equal for rows which share one prefix: same images, question and tiles."""
        digest = hashlib.blake2b(digest_size=16)
        for image in self.images:
            if isinstance(image, Path):
                kind, content = b"P", os.fsencode(image)
            else:
                kind, content = b"B", image if isinstance(image, bytes) else image.content
            digest.update(kind + len(content).to_bytes(8, "little") + content)
        digest.update(self.question.encode("utf-8", "surrogatepass") + f"\0{self.max_tiles}".encode())
        return digest.digest()


def row_from_record(record: object, number: int, image_root: Path, images_beside: int = 0) -> Row:
    """The row that a record describes; `number` (from 0) is its id if it has none.

    Relative image paths start at `image_root`; `images_beside` images came with the record, outside of it. Raises
    InputError naming the key that is missing or wrong.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"a row is a JSON object, got {type(record).__name__}")
    _check_option_keys(record)
    content, used = _content(record)
    images = images_of(record, image_root, KNOWN_KEYS)
    if not images and not images_beside:
        check_no_image_stated(record)
    remarks = (content.remark, remark_on_marks(content.question, len(images) or images_beside))
    label_error = content.label_error
    labels: dict[str, Any] = {}
    if label_error is None:
        try:
            labels = checked_labels(record, content.labels, content.responses)
        except InputError as error:
            label_error = str(error)
    return Row(
        id=record_id(record, number),
        images=images,
        question=content.question,
        responses=content.responses,
        max_steps=_limit(record, "max_steps"),
        max_tiles=_limit(record, "max_tiles"),
        labels=labels,
        number=number,
        label_error=label_error,
        unread=tuple(str(key) for key, value in record.items() if _is_unread(str(key), value, used)),
        remarks=tuple(remark for remark in remarks if remark is not None),
    )


def record_id(record: object, number: int) -> RowId:
    """The record's own id, or its number if it has none. Raises InputError on an id of another type."""
    value = record.get("id") if isinstance(record, Mapping) else None
    if isinstance(value, float):
        value = _whole(value)
    if value is None:
        return number
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"id is {type(value).__name__}: give a string or an integer")
    return value


@dataclass(frozen=True)
class _Content:
    """What a record's kind says: question, responses, labels or why there are none, what a user should know."""

    question: str
    responses: tuple[Response, ...]
    labels: Mapping[str, Any] = field(default_factory=dict)
    label_error: str | None = None
    remark: str | None = None

    def with_labels(self, labels: Callable[[], Mapping[str, Any]]) -> "_Content":
        """The same with labels, or with the error that making them raised."""
        try:
            return replace(self, labels=labels())
        except InputError as error:
            return replace(self, label_error=str(error))


def _content(record: Record) -> tuple[_Content, frozenset[str]]:
    """Question, responses and labels, by the first kind whose keys the record has, and the keys that stand for them."""
    for keys, reader in _KINDS:
        if all(record.get(key) is not None for key in keys):
            return reader(record), frozenset((*keys, *_SAME_AS.get(keys[-1], ())))
    known = "; ".join(", ".join(keys) for keys, _ in _KINDS)
    found = ", ".join(str(key) for key, value in record.items() if value is not None) or "none"
    raise InputError(f"the row's keys ({quoted(found)}) are of no known kind: give one of these sets: {known}")


def _rows_content(record: Record) -> _Content:
    responses = record["responses"]
    if not isinstance(responses, Sequence) or isinstance(responses, str | bytes) or not responses:
        raise InputError("responses must be a list with at least one response")
    return _Content(_text(record, "question"), tuple(_response(item) for item in responses))


def _one_response_content(record: Record) -> _Content:
    response = record["response"]
    if isinstance(response, str):
        return _Content(_text(record, "question"), (response,))
    steps = response.get("steps") if isinstance(response, Mapping) else None
    if not isinstance(response, Mapping) or not isinstance(steps, Sequence) or isinstance(steps, str | bytes):
        raise InputError("response must be text, or an object with a list of steps")
    content = _Content(_text(record, "question"), (_response(steps),))
    given = response.get("process_correctness")
    if given is None:
        return content
    return content.with_labels(lambda: {"process_correctness": [verdicts(given, len(steps))]})


def _raw_steps_content(record: Record) -> _Content:
    steps = record["steps_with_score"]
    if not isinstance(steps, Sequence) or not steps or not all(isinstance(step, Mapping) for step in steps):
        raise InputError("steps_with_score must be a list of objects with step and score, at least one")
    texts = [step.get("step") for step in steps]
    if any(text is None for text in texts):
        raise InputError("steps_with_score has an entry without a step")
    content = _Content(_text(record, "question"), (_response(texts),))
    return content.with_labels(lambda: step_labels([step.get("score") for step in steps]))


def _preference_content(record: Record) -> _Content:
    responses = (_response(record["chosen"]), _response(record["rejected"]))
    return _Content(_text(record, "question"), responses, {"chosen": 0, "rejected": 1})


def _conversation_content(record: Record) -> _Content:
    """Human turns are steps, the first with the question in front of it; the answers are the labels.

    A system turn is not read, which is remarked on: the bundle has the model's own.
    """
    turns = record["conversations"]
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        raise InputError("conversations must be a list of objects with from and value")
    if odd := [turn.get("from") for turn in turns if turn.get("from") not in _SPEAKERS]:
        raise InputError(f"conversations has a turn from {quoted(odd[0], 60)}, known are {', '.join(_SPEAKERS)}")
    human = [_text(turn, "value") for turn in turns if turn.get("from") == "human"]
    answers = [turn.get("value") for turn in turns if turn.get("from") == "gpt"]
    header, found, first = human[0].partition(_SOLUTION_HEADER) if human else ("", "", "")
    if not found or _QUESTION_HEADER not in header:
        raise InputError(
            "the first human turn of conversations must hold '### Question:' and '### Solution Process:', each "
            "followed by a line break and its text"
        )

    def labels() -> Mapping[str, Any]:
        if len(answers) != len(human) or any(answer not in _VERDICTS for answer in answers):
            raise InputError(
                f"conversations has {len(human)} human turns and {len(answers)} answers: each must be + or -"
            )
        return {"process_correctness": [[_VERDICTS[str(answer)] for answer in answers]]}

    question = header.replace(_QUESTION_HEADER, "", 1)
    has_system = any(turn.get("from") == "system" and turn.get("value") for turn in turns)
    remark = "the system turn of conversations is not read: the bundle has the system message" if has_system else None
    return _Content(question, ([first, *human[1:]],), remark=remark).with_labels(labels)


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Record], _Content]], ...] = (
    (("question", "responses"), _rows_content),
    (("question", "steps_with_score"), _raw_steps_content),
    (("question", "chosen", "rejected"), _preference_content),
    (("question", "response"), _one_response_content),
    (("conversations",), _conversation_content),
)
_SAME_AS = {"steps_with_score": ("response",)}  # VisualPRM400K has the whole text beside its steps


def _is_unread(key: str, value: object, used: frozenset[str]) -> bool:
    """Whether nothing is read from a key: an unknown one, or one that another kind's responses would stand under."""
    if key in CONTENT:
        return key not in used and not is_empty(value)
    return key not in KNOWN_KEYS and not is_image_key(key)


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise InputError(f"{key} must be text, got {type(value).__name__}")
    return value


def _response(value: object) -> Response:
    """A response as scoring takes it, steps in a list; scoring reports a bad one beside the others' scores."""
    if isinstance(value, str):
        return value
    return list(value) if isinstance(value, Sequence) else cast(Response, value)


def _limit(record: Record, key: str) -> int | None:
    value = record.get(key)
    if isinstance(value, float):  # a column of integers with missing values
        value = _whole(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InputError(f"{key} must be an integer, got {type(value).__name__}")
    return value


def _whole(number: float) -> float | int | None:
    """An integer for a float that is one, None for NaN."""
    if number != number:
        return None
    return int(number) if number.is_integer() else number


def _check_option_keys(record: Record) -> None:
    """Refuse a limit under another name, and what is given for all rows or is a bundle's: they decide scores."""
    for key, value in record.items():
        meant = _DECIDING.get(_letters(str(key)))
        if meant is None or is_empty(value) or key in LIMITS:
            continue
        advice = OPTIONS.get(meant) or ELSEWHERE.get(meant) or f"write {meant}"
        source = "" if advice.startswith("write") else " from a row"
        raise InputError(f"{quoted(key, 60)} is not read{source}: {advice}")


def _letters(key: str) -> str:
    """A key's letters, so that spellings of it are equal."""
    return key.lower().replace("_", "").replace("-", "").replace(" ", "").removesuffix("s")


_DECIDING = {_letters(key): key for key in (*LIMITS, *OPTIONS, *ELSEWHERE)}


def _smaller(first: int | None, second: int | None) -> int | None:
    given = [value for value in (first, second) if value is not None]
    return min(given) if given else None
