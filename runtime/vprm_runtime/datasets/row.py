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
In a row `process_correctness` has a list a response, whatever the record had.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vprm_runtime.errors import InputError
from vprm_runtime.images.load import check_no_url
from vprm_runtime.prompt.builder import Response
from vprm_runtime.scorer import ScoreOptions

Record = Mapping[str, Any]
RowImage = Path | bytes
RowId = str | int

IMAGE_KEYS = ("image", "images")
LABEL_KEYS = ("answer", "correct", "process_correctness", "policy_model", "data_source")
RECORD_KEYS = (
    *("id", "question", "responses", "response", "steps_with_score", "chosen", "rejected", "conversations"),
    *("max_steps", "max_tiles"),
    *IMAGE_KEYS,
    *LABEL_KEYS,
)
"""Every key that is read: what a column store needs to load."""

_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0")  # PNG, JPEG, GIF, WebP, BMP
_BASE64_MIN_CHARACTERS = 100  # a path may begin with /9j/ too, but no picture is this small
_QUESTION_HEADER = "### Question:\n"
_SOLUTION_HEADER = "\n\n### Solution Process:\n"
_VERDICTS = {"+": 1, "-": -1}


@dataclass(frozen=True)
class Row:
    """A question about zero, one or several images, and the responses to score. Paths are resolved, not yet opened."""

    id: RowId
    images: tuple[RowImage, ...]
    question: str
    responses: tuple[Response, ...]
    max_steps: int | None = None
    max_tiles: int | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)

    def options(self, base: ScoreOptions) -> ScoreOptions:
        """The row's scoring options: of its own limits and those of `base` the smaller."""
        return replace(
            base,
            max_steps=_smaller(self.max_steps, base.max_steps),
            max_tiles=_smaller(self.max_tiles, base.max_tiles),
        )

    @cached_property
    def group_key(self) -> bytes:
        """16 bytes that are equal for rows which share one prefix: same images, question and limits."""
        digest = hashlib.blake2b(digest_size=16)
        for image in self.images:
            kind, content = (b"B", image) if isinstance(image, bytes) else (b"P", str(image).encode())
            digest.update(kind + len(content).to_bytes(8, "little") + content)
        digest.update(json.dumps([self.question, self.max_steps, self.max_tiles]).encode())
        return digest.digest()


def row_from_record(record: object, number: int, image_root: Path) -> Row:
    """The row that a record describes; `number` (from 0) is its id where it has none.

    Relative image paths start at `image_root`. Raises InputError naming the key that is missing or wrong.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"a row is a JSON object, got {type(record).__name__}")
    row_id = record_id(record, number)
    question, responses, labels = _content(record)
    kept = {key: record[key] for key in LABEL_KEYS if record.get(key) is not None and key not in labels}
    if "process_correctness" in kept:
        kept["process_correctness"] = _per_response(kept["process_correctness"], len(responses))
    labels = {**labels, **kept}
    for key, value in labels.items():
        _check_label(key, value)
    return Row(
        id=row_id,
        images=_images(record, image_root),
        question=question,
        responses=responses,
        max_steps=_limit(record, "max_steps"),
        max_tiles=_limit(record, "max_tiles"),
        labels=labels,
    )


def record_id(record: object, number: int) -> RowId:
    """The record's own id, or its number where it has none. Raises InputError on an id of another type."""
    value = record.get("id") if isinstance(record, Mapping) else None
    if value is None:
        return number
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"id is {type(value).__name__}: give a string or an integer")
    return value


_Content = tuple[str, tuple[Response, ...], dict[str, Any]]  # question, responses, labels


def _content(record: Record) -> _Content:
    """Question, responses and labels, by the first kind whose keys the record has."""
    for keys, reader in _KINDS:
        if all(record.get(key) is not None for key in keys):
            return reader(record)
    known = "; ".join(", ".join(keys) for keys, _ in _KINDS)
    found = ", ".join(str(key) for key, value in record.items() if value is not None) or "none"
    raise InputError(f"the row's keys ({found}) are of no known kind: give one of these sets: {known}")


def _rows_content(record: Record) -> _Content:
    responses = record["responses"]
    if not isinstance(responses, Sequence) or isinstance(responses, str | bytes) or not responses:
        raise InputError("responses must be a list with at least one response")
    return _text(record, "question"), tuple(_response(item) for item in responses), {}


def _one_response_content(record: Record) -> _Content:
    response = record["response"]
    if isinstance(response, str):
        return _text(record, "question"), (response,), {}
    steps = response.get("steps") if isinstance(response, Mapping) else None
    if not isinstance(response, Mapping) or not isinstance(steps, Sequence) or isinstance(steps, str | bytes):
        raise InputError("response must be text, or an object with a list of steps")
    labels: dict[str, Any] = {}
    verdicts = response.get("process_correctness")
    if verdicts is not None:
        labels["process_correctness"] = [_verdicts(verdicts, len(steps))]
    return _text(record, "question"), (_response(steps),), labels


def _raw_steps_content(record: Record) -> _Content:
    steps = record["steps_with_score"]
    if not isinstance(steps, Sequence) or not steps or not all(isinstance(step, Mapping) for step in steps):
        raise InputError("steps_with_score must be a list of objects with step and score, at least one")
    try:
        texts, scores = [step["step"] for step in steps], [float(step["score"]) for step in steps]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"steps_with_score has an entry without a step or a numeric score ({error})") from error
    labels = {"process_correctness": [[1 if score > 0 else -1 for score in scores]], "step_labels": [scores]}
    return _text(record, "question"), (_response(texts),), labels


def _preference_content(record: Record) -> _Content:
    responses = (_response(record["chosen"]), _response(record["rejected"]))
    return _text(record, "question"), responses, {"chosen": 0, "rejected": 1}


def _conversation_content(record: Record) -> _Content:
    """Human turns are steps, the first with the question in front of it; the answers are the labels.

    A system turn is skipped: the bundle has the model's own.
    """
    turns = record["conversations"]
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        raise InputError("conversations must be a list of objects with from and value")
    human = [_text(turn, "value") for turn in turns if turn.get("from") == "human"]
    answers = [turn.get("value") for turn in turns if turn.get("from") == "gpt"]
    header, found, first = human[0].partition(_SOLUTION_HEADER) if human else ("", "", "")
    if not found or _QUESTION_HEADER not in header:
        raise InputError(
            "the first human turn of conversations must hold '### Question:' and '### Solution Process:', each "
            "followed by a line break and its text"
        )
    unknown = [answer for answer in answers if answer not in _VERDICTS]
    if unknown or len(answers) != len(human):
        raise InputError(f"conversations has {len(human)} human turns and {len(answers)} answers: each must be + or -")
    question = header.replace(_QUESTION_HEADER, "", 1)
    return question, ([first, *human[1:]],), {"process_correctness": [[_VERDICTS[str(answer)] for answer in answers]]}


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Record], _Content]], ...] = (
    (("question", "responses"), _rows_content),
    (("question", "steps_with_score"), _raw_steps_content),
    (("question", "chosen", "rejected"), _preference_content),
    (("question", "response"), _one_response_content),
    (("conversations",), _conversation_content),
)


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise InputError(f"{key} must be text, got {type(value).__name__}")
    return value


def _response(value: object) -> Response:
    """A response as scoring takes it, steps in a list; scoring reports a bad one beside the others' scores."""
    if isinstance(value, str):
        return value
    return list(value) if isinstance(value, Sequence) else [value]  # type: ignore[list-item]


def _verdicts(value: object, steps: int) -> list[int]:
    """Labels of one response's steps, checked."""
    if not isinstance(value, Sequence) or any(isinstance(v, bool) or v not in (1, 0, -1) for v in value):
        raise InputError("process_correctness must be a list of 1 (right), 0 (neutral) and -1 (wrong)")
    if len(value) != steps:
        raise InputError(f"process_correctness has {len(value)} labels for {steps} steps: give one a step")
    return [int(v) for v in value]


def _check_label(key: str, value: object) -> None:
    """Labels go into the output as they are, so they must be JSON: no NaN, no dates or bytes of a parquet column."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{key} cannot be written as JSON ({error}): give text, numbers or null") from error


def _per_response(value: object, responses: int) -> object:
    """Labels as a list a response; a flat list belongs to the only one."""
    flat = isinstance(value, Sequence) and not any(isinstance(item, Sequence) for item in value)
    return [value] if flat and responses == 1 else value


def _limit(record: Record, key: str) -> int | None:
    value = record.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InputError(f"{key} must be an integer, got {type(value).__name__}")
    return value


def _smaller(first: int | None, second: int | None) -> int | None:
    given = [value for value in (first, second) if value is not None]
    return min(given) if given else None


def _images(record: Record, image_root: Path) -> tuple[RowImage, ...]:
    """Images from `image` or `images`: one or a list of paths, bytes, base64 texts or objects with bytes or path."""
    value = next((record[key] for key in IMAGE_KEYS if record.get(key) is not None), None)
    if value is None:
        return ()
    single = isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence)
    return tuple(_image(item, image_root) for item in ([value] if single else value))


def _image(value: object, image_root: Path) -> RowImage:
    if isinstance(value, Mapping):  # how Hugging Face data sets store an image
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str) and _looks_encoded(value):
            return _decoded(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str) or not value:
        raise InputError(
            "an image must be a path, bytes, base64 text or an object with bytes or path; leave image out for text only"
        )
    if _looks_encoded(value):
        return _decoded(value)
    check_no_url(value)  # here: a path keeps only one of the slashes
    return image_root / value


def _looks_encoded(text: str) -> bool:
    return text.startswith("data:") or (len(text) >= _BASE64_MIN_CHARACTERS and text.startswith(_BASE64_STARTS))


def _decoded(text: str) -> bytes:
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise InputError(f"an image is not valid base64 ({error}): encode the image file's bytes again") from error
