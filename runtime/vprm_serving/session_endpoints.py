"""/v1/sessions: beam search, MCTS and streaming rewards against a prefix that is run once."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vprm_runtime.errors import InputError
from vprm_runtime.wire import document
from vprm_serving.admission import Place
from vprm_serving.http import call_of, read_json, service_of, unless_gone


async def create(request: Request, place: Place) -> Response:
    """Run the prefix of `{"image", "question", "max_tiles"?}` and keep it."""
    call = call_of(request)
    record = await read_json(request, place)
    held = await unless_gone(request, service_of(request).open_session(record, call, place))
    return JSONResponse(held.facts(), 201)


async def show(request: Request, place: Place) -> Response:
    """A session's tiles, prefix tokens and committed steps."""
    return JSONResponse(service_of(request).sessions.get(request.path_params["session"]).facts())


async def append(request: Request, place: Place) -> Response:
    """Commit a step: `{"step", "after"?}`; returns it with its score."""
    call = call_of(request)
    body = await _object(request, place, "step", "after")
    after = None if body.get("after") is None else _integer(body, "after", 0)
    name, step = request.path_params["session"], _text(body, "step")
    scored = await unless_gone(request, service_of(request).append(name, step, after, call, place))
    return JSONResponse({"text": scored.text, "score": scored.score})


async def score_next(request: Request, place: Place) -> Response:
    """Score `{"alternatives": [text]}` for the next step; commits none."""
    call = call_of(request)
    body = await _object(request, place, "alternatives")
    alternatives = body.get("alternatives")
    if not isinstance(alternatives, list) or not alternatives:
        raise InputError("alternatives is a list of steps, at least one")
    name = request.path_params["session"]
    result = await unless_gone(request, service_of(request).score_next(name, alternatives, call, place))
    return JSONResponse(document(result))


async def fork(request: Request, place: Place) -> Response:
    """A second session with the same committed steps."""
    held = await service_of(request).fork(request.path_params["session"], call_of(request))
    return JSONResponse(held.facts(), 201)


async def rewind(request: Request, place: Place) -> Response:
    """Forget the last `{"steps": N}` committed steps."""
    call = call_of(request)
    body = await _object(request, place, "steps")
    held = await service_of(request).rewind(request.path_params["session"], _integer(body, "steps", 0), call)
    return JSONResponse(held.facts())


async def delete(request: Request, place: Place) -> Response:
    """Close a session."""
    service = service_of(request)
    await service.close_session(service.sessions.remove(request.path_params["session"]))
    return Response(status_code=204)


async def _object(request: Request, place: Place, *names: str) -> dict[str, Any]:
    body = await read_json(request, place)
    if not isinstance(body, dict):
        raise InputError(f"the body is a JSON object with {' and '.join(names)}", code="bad_json")
    unknown = [name for name in body if name not in names]
    if unknown:
        raise InputError(f"unknown key {unknown[0][:60]!r}: there are {', '.join(names)}", code="bad_json")
    return body


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, got {type(value).__name__}")
    return value


def _integer(body: dict[str, Any], name: str, least: int) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}")
    return value
