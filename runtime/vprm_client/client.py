"""The blocking client. `asynchronous.py` has the same with `await`."""

import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from vprm_client.calls import Call, Calls, Reply, Send, SessionCalls, SessionFacts, Wait, key_header
from vprm_client.protocol import Images, Response
from vprm_runtime.errors import InputError
from vprm_runtime.results import ScoreResult, StepScore, all_failed

Value = TypeVar("Value")


class Client:
    """Scores on a server as a `StepScorer` does in the process. Threads may share it.

    A failure is always an exception: InputError if the request cannot be scored, EngineError if the engine failed on
    it, ServerError if the server refused it or could not be reached until the deadline.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        uds: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 8,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connect lazily.

        Args:
            url: the server's address.
            uds: path of its Unix socket, instead of a TCP connection.
            api_key: a key, if the server wants one.
            timeout_s: seconds that a request may take, all tries together; the server is told.
            retries: tries after the first, if the server is full, restarting or out of reach.
            transport: an httpx transport, instead of `uds`.
        """
        self._http = httpx.Client(
            base_url=url, headers=key_header(api_key), transport=transport or httpx.HTTPTransport(uds=uds)
        )
        self._calls = Calls(timeout_s, retries)
        weakref.finalize(self, self._http.close)  # libraries keep rewards as functions, which nobody closes

    def score(
        self,
        images: Images,
        question: str,
        responses: Sequence[Response],
        *,
        max_tiles: int | None = None,
        max_steps: int | None = None,
        aggregate: str | None = None,
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
    ) -> ScoreResult:
        """Score all responses to one question about zero, one or several images, as `StepScorer.score` does.

        Args:
            images: a path, the bytes of an image file, base64 of one, a data URL or a Pillow image; a list of them for
                several; None for text only.
            question: what the responses answer.
            responses: each a string, split into steps on blank lines, or a list of steps; at least one.
            max_tiles: tiles per image at most, thumbnail not counted (default: the bundle's limit).
            max_steps: join consecutive steps so that a response has at most this many (default: no limit).
            aggregate: how step scores become a response score (default: mean).
            step_separator: split strings here (default: at blank lines, as the model's own code does).
            drop_empty_steps: leave out steps without text, which the model's own code scores.

        Returns:
            One result per response, in input order; a response that cannot be scored carries its error.

        Raises:
            InputError: nothing can be scored.
            EngineError: the engine failed.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        return self._drive(
            self._calls.score(
                images,
                question,
                responses,
                max_tiles=max_tiles,
                max_steps=max_steps,
                aggregate=aggregate,
                step_separator=step_separator,
                drop_empty_steps=drop_empty_steps,
            )
        )

    def score_many(
        self,
        rows: Iterable[tuple[Images, str, Sequence[Response]]],
        *,
        max_tiles: int | None = None,
        max_steps: int | None = None,
        aggregate: str | None = None,
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
        concurrency: int = 16,
    ) -> Iterator[ScoreResult]:
        """Score many questions, several at a time.

        Args:
            rows: (images, question, responses), each as for `score`.
            max_tiles: as for `score`.
            max_steps: as for `score` (default: no limit).
            aggregate: as for `score`.
            step_separator: as for `score`.
            drop_empty_steps: as for `score`.
            concurrency: requests at a time.

        Yields:
            One result per row, in input order. If a row cannot be scored, each of its responses carries the error.

        Raises:
            EngineError: the engine failed.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        given = list(rows)

        def one(row: tuple[Images, str, Sequence[Response]]) -> ScoreResult:
            try:
                return self.score(
                    *row, max_tiles=max_tiles, max_steps=max_steps, aggregate=aggregate,
                    step_separator=step_separator, drop_empty_steps=drop_empty_steps,
                )  # fmt: skip
            except InputError as error:
                return all_failed(len(row[2]), str(error), error.code)

        with ThreadPoolExecutor(concurrency) as pool:
            yield from pool.map(one, given)

    def select_best_response(
        self, question: str, responses: Sequence[Response], images: Images = None, *, max_steps: int | None = None
    ) -> list[Response]:
        """Rank responses by mean step score, as `vprm.select_best_response` does.

        Args:
            question: what the responses answer.
            responses: as for `score`.
            images: as for `score`.
            max_steps: join consecutive steps so that a response has at most this many (default: 12, as on the model
                card).

        Returns:
            The responses, best first.

        Raises:
            InputError: a response cannot be scored.
            EngineError: the engine failed.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        return self._drive(self._calls.select(question, responses, images, max_steps))

    def session(self, images: Images, question: str, *, max_tiles: int | None = None) -> "RemoteSession":
        """Run the images and the question once; then append, score alternatives, fork and rewind.

        Args:
            images: as for `score`.
            question: what the steps answer.
            max_tiles: as for `score`.

        Returns:
            An open session. Close it, or use it in a `with` statement.

        Raises:
            InputError: a blank question, an unreadable image, or a prompt beyond the model's limit.
            EngineError: the engine failed.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        return RemoteSession(self, self._drive(self._calls.open_session(images, question, max_tiles)))

    def model(self) -> dict[str, Any]:
        """What the server scores with, its limits, its queue and cache.

        Returns:
            The JSON document of `GET /v1/model`.

        Raises:
            ServerError: the server refused, or was out of reach until the deadline.
        """
        facts: dict[str, Any] = self._drive(self._calls.request("GET", "/v1/model"))
        return facts

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drive(self, call: Call[Value]) -> Value:
        """Do what a call asks for until it has its result."""
        reply: Reply = None
        while True:
            try:
                action = call.send(reply)
            except StopIteration as end:
                value: Value = end.value
                return value
            if isinstance(action, Wait):
                time.sleep(action.seconds)
                reply = None
                continue
            try:
                reply = self._send(action)
            except httpx.RequestError as error:
                reply = error

    def _send(self, send: Send) -> httpx.Response:
        """One try, which ends at its time also if the answer trickles in."""
        until = time.monotonic() + send.timeout_s
        request = self._http.build_request(send.method, send.path, timeout=send.timeout_s, **send.options)
        answer = self._http.send(request, stream=True)
        if answer.is_stream_consumed:  # a transport of the caller's that has it whole
            return answer
        chunks = []
        try:
            for chunk in answer.iter_raw():
                chunks.append(chunk)
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer was not whole in time", request=request)
        finally:
            answer.close()
        return httpx.Response(answer.status_code, headers=answer.headers, content=b"".join(chunks), request=request)


class RemoteSession(SessionFacts):
    """A session on the server; methods as of `vprm_runtime.Session`. Not for several threads at once."""

    def __init__(self, client: Client, calls: SessionCalls) -> None:
        super().__init__(calls)
        self._client = client

    def score(
        self,
        responses: Sequence[Response],
        *,
        max_steps: int | None = None,
        aggregate: str | None = None,
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
    ) -> ScoreResult:
        """Score whole responses against the prefix, whatever is committed.

        Args:
            responses: each a string, split into steps on blank lines, or a list of steps; at least one.
            max_steps: as for `Client.score` (default: no limit).
            aggregate: as for `Client.score`.
            step_separator: as for `Client.score`.
            drop_empty_steps: as for `Client.score`.

        Returns:
            One result per response, in input order; a response that cannot be scored carries its error.

        Raises:
            InputError: nothing can be scored, or the session is gone.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        options = {"step_separator": step_separator, "drop_empty_steps": drop_empty_steps}
        call = self._calls.score(responses, max_steps=max_steps, aggregate=aggregate, **options)
        return self._client._drive(call)

    def append(self, step: str) -> StepScore:
        """Score a step and commit it.

        Args:
            step: its text.

        Returns:
            The step and its score.

        Raises:
            InputError: the step cannot be scored, or the session is gone.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        return self._client._drive(self._calls.append(step))

    def score_next(self, alternatives: Sequence[str]) -> ScoreResult:
        """Score alternatives for the next step; commits none.

        Args:
            alternatives: texts of steps, at least one.

        Returns:
            One result per alternative, in input order.

        Raises:
            InputError: nothing can be scored, or the session is gone.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        return self._client._drive(self._calls.score_next(alternatives))

    def fork(self) -> "RemoteSession":
        """A second session with the same past.

        Returns:
            An open session of its own.

        Raises:
            InputError: the session is gone.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        return RemoteSession(self._client, self._client._drive(self._calls.fork()))

    def rewind(self, steps: int = 1) -> None:
        """Forget the last committed steps.

        Args:
            steps: how many.

        Raises:
            InputError: there are fewer, or the session is gone.
            ServerError: the server refused, or was out of reach until the deadline.
        """
        self._client._drive(self._calls.rewind(steps))

    def close(self) -> None:
        """Give the server's memory back."""
        self._client._drive(self._calls.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
