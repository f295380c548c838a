"""The client for asyncio; `client.py` has the same without `await`."""

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from vprm_client.calls import Call, Calls, Reply, SessionCalls, SessionFacts, Wait, key_header
from vprm_client.protocol import Images, Response
from vprm_runtime.errors import InputError
from vprm_runtime.results import ScoreResult, StepScore, all_failed

Value = TypeVar("Value")


class AsyncClient:
    """Scores on a server as a `StepScorer` does in the process. Tasks of one event loop may share it.

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
        transport: httpx.AsyncBaseTransport | None = None,
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
        self._http = httpx.AsyncClient(
            base_url=url, headers=key_header(api_key), transport=transport or httpx.AsyncHTTPTransport(uds=uds)
        )
        self._calls = Calls(timeout_s, retries)

    async def score(
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
        """Score responses to one question: arguments, defaults (`max_steps`: no limit), errors of `Client.score`."""
        return await self._drive(
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

    async def score_many(
        self,
        rows: Iterable[tuple[Images, str, Sequence[Response]]],
        *,
        max_tiles: int | None = None,
        max_steps: int | None = None,
        aggregate: str | None = None,
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
        concurrency: int = 16,
    ) -> list[ScoreResult]:
        """Score many questions: arguments, defaults (`max_steps`: no limit) and errors of `Client.score_many`."""
        free = asyncio.Semaphore(concurrency)

        async def one(row: tuple[Images, str, Sequence[Response]]) -> ScoreResult:
            async with free:
                try:
                    return await self.score(
                    *row, max_tiles=max_tiles, max_steps=max_steps, aggregate=aggregate,
                    step_separator=step_separator, drop_empty_steps=drop_empty_steps,
                )  # fmt: skip
                except InputError as error:
                    return all_failed(len(row[2]), str(error), error.code)

        return await asyncio.gather(*(one(row) for row in rows))

    async def select_best_response(
        self, question: str, responses: Sequence[Response], images: Images = None, *, max_steps: int | None = None
    ) -> list[Response]:
        """Rank responses: arguments, defaults (`max_steps`: 12) and errors of `Client.select_best_response`."""
        return await self._drive(self._calls.select(question, responses, images, max_steps))

    async def session(self, images: Images, question: str, *, max_tiles: int | None = None) -> "AsyncRemoteSession":
        """Run the images and the question once; then append, score alternatives, fork and rewind."""
        return AsyncRemoteSession(self, await self._drive(self._calls.open_session(images, question, max_tiles)))

    async def model(self) -> dict[str, Any]:
        """What the server scores with, its limits, its queue and cache."""
        facts: dict[str, Any] = await self._drive(self._calls.request("GET", "/v1/model"))
        return facts

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _drive(self, call: Call[Value]) -> Value:
        """Do what a call asks for until it has its result."""
        reply: Reply = None
        while True:
            try:
                action = call.send(reply)
            except StopIteration as end:
                value: Value = end.value
                return value
            if isinstance(action, Wait):
                await asyncio.sleep(action.seconds)
                reply = None
                continue
            try:
                async with asyncio.timeout(action.timeout_s):  # httpx bounds each read, not all of them
                    reply = await self._http.request(
                        action.method, action.path, timeout=action.timeout_s, **action.options
                    )
            except httpx.RequestError as error:
                reply = error
            except TimeoutError:
                reply = httpx.ReadTimeout("the answer was not whole in time")


class AsyncRemoteSession(SessionFacts):
    """A session on the server; methods as of `vprm_runtime.Session`. Not for several threads at once."""

    def __init__(self, client: AsyncClient, calls: SessionCalls) -> None:
        super().__init__(calls)
        self._client = client

    async def score(
        self,
        responses: Sequence[Response],
        *,
        max_steps: int | None = None,
        aggregate: str | None = None,
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
    ) -> ScoreResult:
        """Score whole responses against the prefix, whatever is committed."""
        options = {"step_separator": step_separator, "drop_empty_steps": drop_empty_steps}
        call = self._calls.score(responses, max_steps=max_steps, aggregate=aggregate, **options)
        return await self._client._drive(call)

    async def append(self, step: str) -> StepScore:
        """Commit a step."""
        return await self._client._drive(self._calls.append(step))

    async def score_next(self, alternatives: Sequence[str]) -> ScoreResult:
        """Score alternatives for the next step; commits none."""
        return await self._client._drive(self._calls.score_next(alternatives))

    async def fork(self) -> "AsyncRemoteSession":
        """A second session with the same past."""
        return AsyncRemoteSession(self._client, await self._client._drive(self._calls.fork()))

    async def rewind(self, steps: int = 1) -> None:
        """Forget the last committed steps."""
        await self._client._drive(self._calls.rewind(steps))

    async def close(self) -> None:
        """Give the server's memory back."""
        await self._client._drive(self._calls.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
