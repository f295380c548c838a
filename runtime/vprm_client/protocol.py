"""What both clients have in common and no network: rows to send, results to read, when to try again."""

import base64
import hashlib
import io
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vprm_runtime.errors import EngineError, InputError, ServerError, VprmError, quoted
from vprm_runtime.images.load import ImageInput, check_no_url, load_image, read_image_file
from vprm_runtime.inputs import images_of, list_of, response_of
from vprm_runtime.results import CandidateScore, ScoreResult, StepScore

Images = Any
"""What `StepScorer.score` takes: paths on this machine, bytes, Pillow images, arrays; one, a list or None."""
Response = str | Sequence[str]

INLINE_BYTES = 1 << 12
"""Images of at most this size travel with every request; larger ones are uploaded once."""
_DIGEST_BYTES = 32
_RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})
_SERVER_CODES = frozenset({"overloaded", "draining", "deadline", "unauthorized", "server", "session_lost"})
REFUSED_CODES = ("overloaded", "draining")
"""Of refusals before anything was done."""
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 8.0


@dataclass(frozen=True)
class SentImage:
    """An image's file content and its digest."""

    content: bytes
    digest: str

    @property
    def is_inline(self) -> bool:
        """Whether it travels with the request."""
        return len(self.content) <= INLINE_BYTES

    @property
    def reference(self) -> str:
        """What stands for it in a row."""
        return base64_url(self.content) if self.is_inline else f"blake2b:{self.digest}"


def base64_url(content: bytes) -> str:
    """A data URL; the server tells the format by content."""
    return "data:;base64," + base64.b64encode(content).decode()


def inline(images: Sequence[SentImage]) -> list[str]:
    """What stands for images that travel with the request, small or not."""
    return [base64_url(image.content) for image in images]


def sent_images(images: Images) -> list[SentImage]:
    """The images to send, in order. Raises InputError if one cannot be read."""
    contents = [_content(image) for image in images_of(images)]
    return [SentImage(c, hashlib.blake2b(c, digest_size=_DIGEST_BYTES).hexdigest()) for c in contents]


def _content(image: ImageInput) -> bytes:
    """An image file's content; pixels become PNG, which loses nothing."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        check_no_url(str(image))
        return read_image_file(image).content
    stream = io.BytesIO()
    load_image(image).save(stream, "PNG")
    return stream.getvalue()


@dataclass(frozen=True)
class Texts:
    """Responses to send. One that JSON cannot hold is null on the way, and its index has the reason in `faults`."""

    sent: list[object]
    faults: Mapping[int, str]


def texts_of(values: Sequence[Response], name: str = "responses") -> Texts:
    """Responses or alternatives to send, in order. Raises InputError if they are no list, or an empty one."""
    given = [response_of(value) for value in list_of(values, name)]
    if not given:
        raise InputError(f"{name} must be a list with at least one {name.removesuffix('s')}")
    faults = {index: fault for index, value in enumerate(given) if (fault := _fault(value)) is not None}
    return Texts([None if index in faults else value for index, value in enumerate(given)], faults)


def _fault(value: object) -> str | None:
    """Why JSON cannot hold a response; None if it can."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        return f"the text has characters that are not valid Unicode ({error.reason}): clean it"
    except (TypeError, ValueError, RecursionError):
        odd = next((step for step in value if not isinstance(step, str)), "") if isinstance(value, list) else value
        kind = f"{'a step of ' if isinstance(value, list) else ''}{type(odd).__name__}"
        return f"a response is a string or a list of strings, got {kind}"
    return None


def row_of(images: Sequence[SentImage], question: str, texts: Texts) -> dict[str, Any]:
    """The row of a call."""
    return {"image": [image.reference for image in images], "question": question, "responses": texts.sent}


def query_of(options: Mapping[str, int | str | None]) -> dict[str, str]:
    """Options as query parameters; None and False, which are the defaults, are left out."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return {name: "true" if value is True else str(value) for name, value in given.items()}


def result_of(document: Mapping[str, Any], texts: Texts) -> ScoreResult:
    """The result in a document about `texts`. Raises ServerError if it is none: a number is never made up."""
    try:
        if [result["index"] for result in document["results"]] != list(range(len(texts.sent))):
            raise ValueError(f"{len(document['results'])} results for {len(texts.sent)} responses, or in another order")
        candidates = tuple(
            CandidateScore(
                result["index"],
                None if result["score"] is None else _number(result["score"]),
                tuple(step_of(step) for step in result["steps"]),
                texts.faults.get(result["index"], result["error"]),
                result.get("code"),
            )
            for result in document["results"]
        )
        return ScoreResult(tuple(document["tiles"]), candidates)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"the server's answer is no document ({error!r}): is it a vprm server?") from error


def ranking_of(body: object, responses: int) -> list[int]:
    """Indices of all responses, best first. Raises ServerError if the answer is none."""
    found = body.get("ranking") if isinstance(body, Mapping) else None
    if not isinstance(found, list) or not all(type(index) is int for index in found):
        raise ServerError("the server's answer has no ranking: is it a vprm server?")
    if sorted(found) != list(range(responses)):
        raise ServerError(f"the server ranked other responses than the {responses} that were sent")
    return found


def step_of(step: Mapping[str, Any]) -> StepScore:
    """A step with its score. Raises ServerError if it is none."""
    try:
        return StepScore(str(step["text"]), _number(step["score"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"the server's answer has no step ({error!r}): is it a vprm server?") from error


def _number(value: object) -> float:
    """A score. Raises ValueError for what is no number from 0 to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{quoted(value)} is no score")
    return float(value)


def error_of(status: int, body: object, retry_after: str | None) -> VprmError:
    """The error that a status and a body stand for, of the class that scoring in the process would raise."""
    known = body if isinstance(body, Mapping) else {}
    code = str(known.get("code", "server"))
    message = str(known.get("error", f"the server answered with status {status}"))
    wait = float(retry_after) if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else None
    if code in _SERVER_CODES:
        return ServerError(message, code=code, retry_after_s=wait)
    return InputError(message, code=code) if 400 <= status < 500 else EngineError(message, code=code)


def is_retried(status: int, code: str) -> bool:
    """Whether the same request may succeed later. An engine's failure on this very request is not tried again."""
    return status in _RETRIED_STATUS and code not in ("engine", "not_finite", "deadline", "session_lost")


class Patience:
    """How long to try: waits that double, with full jitter, at least what the server asked for, until a deadline."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._until = time.monotonic() + timeout_s
        self._left = retries
        self._wait_s = _FIRST_WAIT_S

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least a millisecond."""
        return max(0.001, self._until - time.monotonic())

    def next_wait_s(self, retry_after_s: float | None) -> float | None:
        """Seconds to wait before the next try; None if there is none."""
        wait = random.uniform(0, self._wait_s) + (retry_after_s or 0.0)
        self._wait_s = min(_LONGEST_WAIT_S, 2 * self._wait_s)
        self._left -= 1
        if self._left < 0 or wait >= self.remaining_s:
            return None
        return wait
