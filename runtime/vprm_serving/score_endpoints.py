"""Scoring: /v1/score, /v1/select, /v1/score/stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from vprm_runtime.errors import InputError
from vprm_runtime.execution.run import FirstSteps
from vprm_runtime.options import MODEL_CARD_MAX_STEPS
from vprm_runtime.wire import document
from vprm_serving.admission import Place
from vprm_serving.http import call_of, error_response, read_row, reason_of, service_of, unless_gone
from vprm_serving.intake import Work
from vprm_serving.jobs import Found
from vprm_serving.service import Answer, Service

Event = tuple[str, dict[str, Any]]


def answer_document(answer: Answer) -> dict[str, Any]:
    """The document of a row, its labels beside the scores, as `vprm score --input` writes it; and notes, if any."""
    row = answer.work.row
    labels = {"label_error": row.label_error} if row.label_error is not None else dict(row.labels)
    return {**document(answer.result, row.id), **labels, **_notes(answer)}


def _notes(answer: Answer) -> dict[str, Any]:
    """What the sender should know beside errors, if there is anything."""
    return {"notes": list(answer.work.notes)} if answer.work.notes else {}


def timing_headers(answer: Answer) -> dict[str, str]:
    """How long the request waited and ran, and how much of its prefix was run already."""
    return {
        "server-timing": f"queue;dur={1000 * answer.queue_s:.1f}, run;dur={1000 * answer.run_s:.1f}",
        "x-vprm-prefix-tokens": str(answer.work.prefix_tokens),
        "x-vprm-cached-tokens": str(answer.cached_tokens),
    }


async def score(request: Request, place: Place) -> Response:
    """Scores of a row."""
    call = call_of(request)
    record, files = await read_row(request, place)
    answer = await unless_gone(request, service_of(request).score(record, call, place, files))
    return JSONResponse(answer_document(answer), headers=timing_headers(answer))


async def select(request: Request, place: Place) -> Response:
    """The best response and the ranking, with the defaults of the model card. All responses must be scored."""
    call = call_of(request)
    if call.options.max_steps is None:
        call = replace(call, options=replace(call.options, max_steps=MODEL_CARD_MAX_STEPS))
    record, files = await read_row(request, place)
    answer = await unless_gone(request, service_of(request).score(record, call, place, files))
    for candidate in answer.result.candidates:
        if candidate.error is not None:
            raise InputError(f"response {candidate.index} cannot be ranked: {candidate.error}", code=candidate.code)
    result = answer.result
    body = {
        "id": answer.work.row.id,
        "best": result.best,
        "ranking": result.ranking,
        "scores": [candidate.score for candidate in result.candidates],
        "response": None if result.best is None else answer.work.row.responses[result.best],
        **_notes(answer),
    }
    return JSONResponse(body, headers=timing_headers(answer))


async def score_stream(request: Request, place: Place) -> Response:
    """Scores as they come, as server-sent events: prepared, steps, result, and document or error at the end."""
    record, files = await read_row(request, place)
    service = service_of(request)
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | None] = asyncio.Queue()

    def emit(found: Found) -> None:  # on the engine's thread
        loop.call_soon_threadsafe(events.put_nowait, _event(found))

    def on_work(work: Work) -> None:
        steps = [list(response.steps) for response in work.responses]
        facts = {"id": work.row.id, "tiles": list(work.tile_counts), "prefix_tokens": work.prefix_tokens}
        events.put_nowait(("prepared", {**facts, "grids": service.intake.grids(work), "steps": steps}))

    call = call_of(request, emit=emit, on_work=on_work)
    working = asyncio.ensure_future(service.score(record, call, place, files))
    working.add_done_callback(lambda _: events.put_nowait(None))
    first = await events.get()
    if first is None:  # refused before anything was run: an error with its own status
        await working
    return _Events(
        working,
        _stream(service, working, first, events),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


class _Events(StreamingResponse):
    """Events of work that ends with the answer, also if the caller left before the first event was sent."""

    def __init__(self, working: asyncio.Future[Answer], events: AsyncIterator[bytes], **others: Any) -> None:
        super().__init__(events, **others)
        self._working = working

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._working.cancel()


async def _stream(
    service: Service, working: asyncio.Future[Answer], first: Event | None, events: asyncio.Queue[Event | None]
) -> AsyncIterator[bytes]:
    """The events of one request."""
    event = first
    while event is not None:
        yield _sse(*event)
        event = await events.get()
    try:
        last = ("document", answer_document(working.result()))
        service.metrics.success.inc()
    except Exception as error:  # noqa: BLE001  the status is sent already: the error is the last event
        last = ("error", json.loads(bytes(error_response(error).body)))
        service.metrics.failure.labels(reason_of(error)).inc()
    yield _sse(*last)


def _event(found: Found) -> tuple[str, dict[str, Any]]:
    steps = [{"text": step.text, "score": step.score} for step in found.steps]
    if isinstance(found, FirstSteps):
        return "steps", {"index": found.index, "steps": steps}
    code = {} if found.code is None else {"code": found.code}
    return "result", {"index": found.index, "score": found.score, "steps": steps, "error": found.error, **code}


def _sse(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()
