"""The calls of both clients without any input or output: generators of what to send and how long to wait.

A driver sends each `Send` and hands the answer in, or the error that kept it from one; it sleeps for each `Wait`.
"""

import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from vprm_client.protocol import (
    REFUSED_CODES,
    Images,
    Patience,
    Response,
    SentImage,
    error_of,
    inline,
    is_retried,
    query_of,
    ranking_of,
    result_of,
    row_of,
    sent_images,
    step_of,
    texts_of,
)
from vprm_runtime.errors import InputError, ServerError, quoted
from vprm_runtime.results import ScoreResult, StepScore

Value = TypeVar("Value")
Options = dict[str, int | str | None]
_Ask = Callable[[str, dict[str, Any], Options], "Call[Any]"]
_LOST = ("unknown_session", "session_lost")
_REPLAYS = 3
_LOG = logging.getLogger("vprm")
_MOST_WARNINGS = 100


@dataclass(frozen=True)
class Send:
    """A request to send. `options` are httpx's; `timeout_s` bounds this try."""

    method: str
    path: str
    timeout_s: float
    options: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Wait:
    """A pause before the next try."""

    seconds: float


Reply = httpx.Response | httpx.RequestError | None
Call = Generator[Send | Wait, Reply, Value]


class Calls:
    """All calls of one client, and which images its server has."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._timeout_s, self._retries = timeout_s, retries
        self._uploaded: set[str] = set()
        self._warned: set[str] = set()

    def request(self, method: str, path: str, *, twice: bool = True, **options: Any) -> Call[Any]:
        """One request, tried again while that may help; its JSON. Unless it may be done `twice`, only if it was not."""
        headers = {}
        if "json" in options:
            options["content"] = _as_json(options.pop("json"))
            headers["content-type"] = "application/json"
        patience = Patience(self._timeout_s, self._retries)
        while True:
            left = patience.remaining_s
            headers["x-vprm-timeout-ms"] = str(max(1, round(1000 * left)))
            reply = yield Send(method, path, left, {**options, "headers": headers})
            if isinstance(reply, httpx.Response):
                if reply.is_success:
                    return _json(reply)
                found = error_of(reply.status_code, _json(reply), reply.headers.get("retry-after"))
                if not isinstance(found, ServerError) or not is_retried(reply.status_code, found.code):
                    raise found
                if not twice and found.code not in REFUSED_CODES:
                    raise found
                failure = found
            else:
                failure = ServerError(f"the server cannot be reached: {reply!r}", code="unreachable")
                if isinstance(reply, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
                    raise failure  # the address or the key is wrong, and stays so
                if not twice and not isinstance(reply, httpx.ConnectError | httpx.ConnectTimeout):
                    raise failure
            wait_s = patience.next_wait_s(failure.retry_after_s)
            if wait_s is None:
                raise failure
            yield Wait(wait_s)

    def score(
        self, images: Images, question: str, responses: Sequence[Response], **options: int | str | None
    ) -> Call[ScoreResult]:
        """POST /v1/score."""
        sent = sent_images(images)
        texts = texts_of(responses)
        document = yield from self._with_images("/v1/score", row_of(sent, question, texts), sent, options)
        self._warn(document)
        return result_of(document, texts)

    def select(
        self, question: str, responses: Sequence[Response], images: Images, max_steps: int | None
    ) -> Call[list[Response]]:
        """POST /v1/select."""
        sent = sent_images(images)
        texts = texts_of(responses)
        if texts.faults:
            index, fault = next(iter(texts.faults.items()))
            raise InputError(f"response {index} cannot be ranked: {fault}")
        row = row_of(sent, question, texts)
        body = yield from self._with_images("/v1/select", row, sent, {"max_steps": max_steps})
        return [responses[index] for index in ranking_of(body, len(responses))]

    def open_session(self, images: Images, question: str, max_tiles: int | None) -> Call["SessionCalls"]:
        """POST /v1/sessions."""
        sent = sent_images(images)
        row = {"image": [image.reference for image in sent], "question": question}

        def asked(path: str, more: dict[str, Any], options: Options) -> Call[Any]:
            return self._with_images(path, {**row, **more}, sent, {"max_tiles": max_tiles, **options})

        return SessionCalls(self, asked, (yield from asked("/v1/sessions", {}, {})))

    def _with_images(self, path: str, row: dict[str, Any], sent: Sequence[SentImage], options: Options) -> Call[Any]:
        """Send a row; images that the server does not have, or has no longer, are uploaded before.

        If it has no room for them, or others push them out at once, they travel with the row.
        """
        query = query_of(options)
        for images in ([image for image in sent if image.digest not in self._uploaded], sent):
            try:
                yield from self._upload(images)
            except InputError as error:  # more than the server keeps
                if error.code != "too_large":
                    raise
                break
            try:
                return (yield from self.request("POST", path, json=row, params=query))
            except InputError as error:
                if error.code != "unknown_image":
                    raise
        return (yield from self.request("POST", path, json={**row, "image": inline(sent)}, params=query))

    def _warn(self, document: object) -> None:
        """Log what the server says of a row beside errors, each kind of note once."""
        notes = document.get("notes") if isinstance(document, Mapping) else None
        for note in notes if isinstance(notes, list) else ():
            if str(note) not in self._warned and len(self._warned) < _MOST_WARNINGS:
                self._warned.add(str(note))
                _LOG.warning("%s", str(note)[:500])

    def _upload(self, images: Sequence[SentImage]) -> Call[None]:
        for image in images:
            if not image.is_inline:
                yield from self.request("PUT", f"/v1/images/{image.digest}", content=image.content)
                self._uploaded.add(image.digest)


class SessionCalls:
    """The calls of a session on the server, and what it has committed.

    A server that forgot the session (its process ended, or the session was not used for long) is told the image, the
    question and the committed steps again, and the call is repeated: the caller sees nothing but the time.
    """

    def __init__(self, calls: Calls, ask: _Ask, facts: dict[str, Any]) -> None:
        """`ask` makes a call about the session's image and question: a path, more of its row, options."""
        self._calls, self._ask = calls, ask
        self.is_closed = False
        try:
            self._path = f"/v1/sessions/{facts['session']}"
            self.tiles: tuple[int, ...] = tuple(facts["tiles"])
            self.prefix_tokens: int = facts["prefix_tokens"]
            self.steps: tuple[StepScore, ...] = tuple(step_of(step) for step in facts["steps"])
        except (KeyError, TypeError) as error:
            raise ServerError(f"the server's answer is no session ({error!r}): is it a vprm server?") from error

    def score(self, responses: Sequence[Response], **options: int | str | None) -> Call[ScoreResult]:
        """Score whole responses against the prefix, which the server has kept: a row of its own."""
        if self.is_closed:
            raise InputError("the session is closed: open another one", code="unknown_session")
        texts = texts_of(responses)
        return result_of((yield from self._ask("/v1/score", {"responses": texts.sent}, options)), texts)

    def append(self, step: str) -> Call[StepScore]:
        """Commit a step; a repeated try commits it once."""
        scored = step_of((yield from self._request("append", {"step": step, "after": len(self.steps)})))
        self.steps = (*self.steps, scored)
        return scored

    def score_next(self, alternatives: Sequence[str]) -> Call[ScoreResult]:
        """Score alternatives for the next step."""
        texts = texts_of(alternatives, "alternatives")
        return result_of((yield from self._request("score_next", {"alternatives": texts.sent})), texts)

    def fork(self) -> Call["SessionCalls"]:
        """The calls of a second session with the same past."""
        facts: dict[str, Any] = yield from self._request("fork", None, twice=False)
        return SessionCalls(self._calls, self._ask, facts)

    def rewind(self, steps: int) -> Call[None]:
        """Forget the last committed steps. Not tried again once it may be done: a second time would forget more."""
        facts = yield from self._request("rewind", {"steps": steps}, twice=False)
        self.steps = tuple(step_of(step) for step in facts["steps"])

    def close(self) -> Call[None]:
        """Give the server's memory back."""
        self.is_closed = True
        try:
            yield from self._calls.request("DELETE", self._path)
        except (InputError, ServerError) as error:
            if error.code not in _LOST:
                raise

    def _request(self, name: str, body: dict[str, Any] | None, twice: bool = True) -> Call[Any]:
        """A request to the session, which is made again if the server has lost it."""
        if self.is_closed:
            raise InputError("the session is closed: open another one", code="unknown_session")
        options = {} if body is None else {"json": body}
        for _ in range(_REPLAYS):
            try:
                return (yield from self._calls.request("POST", f"{self._path}/{name}", twice=twice, **options))
            except (InputError, ServerError) as error:
                if error.code not in _LOST:
                    raise
            try:
                yield from self._replay()
            except (InputError, ServerError) as error:  # lost again meanwhile
                if error.code not in _LOST:
                    raise
        return (yield from self._calls.request("POST", f"{self._path}/{name}", twice=twice, **options))

    def _replay(self) -> Call[None]:
        facts = yield from self._ask("/v1/sessions", {}, {})
        self._path = f"/v1/sessions/{facts['session']}"
        for number, step in enumerate(self.steps):
            body = {"step": step.text, "after": number}
            yield from self._calls.request("POST", f"{self._path}/append", json=body)


def _as_json(body: object) -> bytes:
    """A body to send. Raises InputError if it has what JSON has not, such as half a surrogate pair."""
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text has characters that are not valid Unicode ({error.reason}): clean it") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the question and the responses cannot be sent ({quoted(error)}): give texts") from error


def _json(answer: httpx.Response) -> Any:
    if not answer.content:
        return {}
    try:
        return answer.json()
    except ValueError as error:
        if answer.is_success:
            raise ServerError("the server's answer is not JSON: is it a vprm server?") from error
        return {}


class SessionFacts:
    """What both sessions say of themselves without a request."""

    def __init__(self, calls: SessionCalls) -> None:
        self._calls = calls

    @property
    def tiles(self) -> tuple[int, ...]:
        """Number of tiles of each image, thumbnail included."""
        return self._calls.tiles

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the first step."""
        return self._calls.prefix_tokens

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._calls.is_closed

    @property
    def steps(self) -> tuple[StepScore, ...]:
        """The committed steps and their scores."""
        return self._calls.steps


def key_header(api_key: str | None) -> dict[bytes, bytes]:
    """The header that shows a key, in UTF-8 as the server's file of keys is."""
    return {} if api_key is None else {b"authorization": f"Bearer {api_key}".encode()}
