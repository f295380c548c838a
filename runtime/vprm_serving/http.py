"""What endpoints share: reading a body, options of a call, errors as JSON, and noticing that the caller is gone."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Send

from vprm_runtime.datasets.row_json import fault_of
from vprm_runtime.errors import EngineError, InputError, ServerError, VprmError, quoted
from vprm_runtime.execution.aggregate import AGGREGATES
from vprm_runtime.images.load import NamedImage
from vprm_runtime.options import ScoreOptions
from vprm_runtime.strict_json import unique_keys
from vprm_serving.admission import Place
from vprm_serving.service import Call, Service
from vprm_serving.settings import Limits

Value = TypeVar("Value")
STATUS = {
    "bad_json": 400, "unauthorized": 401, "unknown_session": 404, "unknown_image": 404,
    "unknown_address": 404, "unknown_method": 405, "conflict": 409,
    "too_large": 413, "not_read": 415, "overloaded": 429, "draining": 503, "deadline": 504, "not_implemented": 501,
}  # fmt: skip
"""HTTP status by error code. Other codes: 422 for input that cannot be scored, 500 for an engine's failure."""

TIMEOUT_HEADER = "x-vprm-timeout-ms"
_MOST_DIGITS = 18
_PROMPT_BODY_S = 1.0  # a sender that is slower does not keep others out of the queue meanwhile
_OPTION_NAMES = ("aggregate", "max_steps", "max_tiles", "step_separator", "drop_empty_steps")


class GoneError(Exception):
    """The caller closed the connection before the answer."""


def service_of(request: Request) -> Service:
    """The process's service."""
    service: Service = request.app.state.service
    return service


def error_response(error: Exception, **more: object) -> Response:
    """An error as JSON: `{"error", "code"}` and what else the caller needs."""
    headers = {}
    if isinstance(error, ServerError) and error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, VprmError):
        if error.code == "unauthorized":
            headers["www-authenticate"] = "Bearer"
        default = 422 if isinstance(error, InputError) else 500
        status = STATUS.get(error.code, default)
        body = {**more, "error": str(error), "code": error.code}
    else:
        status, body = 500, {**more, "error": "the server failed on this request: see its log", "code": "server"}
    return JSONResponse(body, status, headers)


async def not_routed(request: Request, error: Exception) -> Response:
    """The framework's own refusals, of addresses and methods that are not there, as errors of this server."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    if status == 405:
        found = InputError(f"{quoted(request.method, 20)} is not for this address: see /docs", code="unknown_method")
    else:
        found = InputError(f"there is nothing at {quoted(request.url.path)}: see /docs", code="unknown_address")
    response = error_response(found)
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def reason_of(error: Exception) -> str:
    """An error's code, for metrics and logs."""
    return "disconnected" if isinstance(error, GoneError) else error.code if isinstance(error, VprmError) else "server"


def content_length(request: Request) -> int | None:
    """The announced size of the body. Raises InputError if the header is no number."""
    given = request.headers.get("content-length")
    if given is None:
        return None
    if not given.isascii() or not given.isdigit():
        raise InputError("content-length is no number", code="bad_json")
    return int(given)


async def read_body(request: Request, place: Place) -> bytes:
    """The whole body, never more than the limits allow. Raises InputError, ServerError or GoneError."""
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise InputError(f"content-encoding {quoted(encoding)} is not read: send the body as it is", code="not_read")
    chunks: list[bytes] = []
    size = 0
    is_slow = asyncio.get_running_loop().call_later(_PROMPT_BODY_S, lambda: place.step_aside(size))
    try:
        async with asyncio.timeout(service_of(request).settings.limits.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > place.held_bytes:
                    place.grow(size)
                chunks.append(chunk)
    except ClientDisconnect as error:
        raise GoneError from error
    except TimeoutError as error:
        raise InputError("the body did not arrive in time: send it again", code="too_large") from error
    finally:
        is_slow.cancel()
    place.come_back()
    return b"".join(chunks)


async def read_bounded(request: Request, limits: Limits, hold: Callable[[int], None] = lambda more: None) -> bytes:
    """The whole body, for those that pass it on; `hold` is told of bytes before they are kept, and may refuse them.

    Raises InputError if it is too large or late, ClientDisconnect.
    """
    too_large = InputError(f"at most {limits.max_body_bytes:,} bytes are read", code="too_large")
    if (content_length(request) or 0) > limits.max_body_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.max_body_bytes:
                    raise too_large
                hold(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise InputError("the body did not arrive in time: send it again", code="too_large") from error
    return b"".join(chunks)


async def refuse(request: Request, error: Exception, limits: Limits, send: Send) -> None:
    """Answer with an error, and drop the rest of the body, so that the answer reaches its sender.

    A body that is announced beyond the limit is not waited for: the whole answer goes out first.
    """
    announced = request.headers.get("content-length", "")
    response = error_response(error)
    if not announced.isdecimal() or int(announced) <= limits.max_body_bytes:
        await _discard_body(request, limits)
        await response(request.scope, request.receive, send)
        return

    async def send_open(message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        await send({**message, "more_body": True} if is_body else message)

    response.headers["connection"] = "close"
    await response(request.scope, request.receive, send_open)
    await _discard_body(request, limits)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard_body(request: Request, limits: Limits) -> None:
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.max_body_bytes:
                    return
    except (ClientDisconnect, TimeoutError, RuntimeError):  # RuntimeError: it was read to its end
        return


def parsed_json(body: bytes) -> Any:
    """The body as JSON. Raises InputError if it is none, or is what files of rows refuse too."""
    try:
        document = json.loads(body, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON ({quoted(error)}): send an object, UTF-8", code="bad_json") from error
    if (fault := fault_of(document, body)) is not None:
        raise InputError(f"the body {fault}")
    return document


async def read_json(request: Request, place: Place) -> Any:
    """The body as JSON; a large one is parsed beside the event loop."""
    body = await read_body(request, place)
    if len(body) > 1 << 16:
        return await service_of(request).in_thread(parsed_json, body)
    return parsed_json(body)


async def read_row(request: Request, place: Place) -> tuple[Any, list[NamedImage]]:
    """A row, and the image files beside it if the request is multipart: fields `row` (JSON) and `image` (files)."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await read_json(request, place), []
    body = await read_body(request, place)
    limits = service_of(request).settings.limits
    replayed = Request({**request.scope, "headers": _as_latin_1(request)}, _replay(body))
    try:
        form = await replayed.form(max_files=limits.max_images, max_fields=8, max_part_size=limits.max_body_bytes)
    except Exception as error:
        raise InputError(f"the multipart body cannot be read ({quoted(error)})", code="bad_json") from error
    try:
        unknown = [name for name in form if name not in ("row", "image", "images")]
        if unknown or len(form.getlist("row")) != 1:
            raise InputError(
                f"a multipart request has one field row, with JSON, and files image; got {quoted(', '.join(form))}",
                code="bad_json",
            )
        text = form["row"]
        files = [item for name in ("image", "images") for item in form.getlist(name)]
        images = []
        for number, file in enumerate(files):
            if isinstance(file, str):
                raise InputError("image is a file in a multipart request, got text", code="bad_json")
            name = (file.filename or f"image {number}").encode("latin-1").decode("utf-8", "replace")
            images.append(NamedImage(quoted(name), await file.read()))
        return parsed_json(text.encode("latin-1") if isinstance(text, str) else await text.read()), images
    finally:
        await form.close()


def _as_latin_1(request: Request) -> list[tuple[bytes, bytes]]:
    """The request's headers, saying that text is Latin-1: so the parser keeps every byte of it as a character.

    JSON is UTF-8, whatever the header says. The parser takes text that is not UTF-8 for Latin-1 without a word.
    """
    kind, options = parse_options_header(request.headers["content-type"])
    words = [kind, *(b'%s="%s"' % pair for pair in options.items() if pair[0] != b"charset"), b"charset=latin-1"]
    others = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
    return [*others, (b"content-type", b"; ".join(words))]


def _replay(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _integer(text: str, name: str, what: str) -> int:
    """Digits as a number; far more of them than any use has are refused. Raises InputError."""
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise InputError(f"{name} is {what}, got {quoted(text)}")
    return int(text)


def call_of(request: Request, **others: Any) -> Call:
    """Options from the address and the deadline from the header. Raises InputError on what is unknown."""
    query = request.query_params
    unknown = [name for name in query if name not in _OPTION_NAMES]
    if unknown:
        raise InputError(f"unknown parameter {quoted(unknown[0])}: there are {', '.join(_OPTION_NAMES)}")
    if len(query.multi_items()) != len(query):
        raise InputError(f"a parameter is there twice ({quoted(str(query))}): give each once")
    given: dict[str, Any] = {}
    for name in ("max_steps", "max_tiles"):
        if name in query:
            given[name] = _integer(query[name], name, "an integer of at least 1")
    if "aggregate" in query:
        if query["aggregate"] not in AGGREGATES:
            raise InputError(f"unknown aggregate {quoted(query['aggregate'])}: use one of {', '.join(AGGREGATES)}")
        given["aggregate"] = query["aggregate"]
    if "step_separator" in query:
        given["step_separator"] = query["step_separator"]
    if "drop_empty_steps" in query:
        if query["drop_empty_steps"] not in ("true", "false"):
            raise InputError(f"drop_empty_steps is true or false, got {quoted(query['drop_empty_steps'])}")
        given["drop_empty_steps"] = query["drop_empty_steps"] == "true"
    return Call(
        options=ScoreOptions(**given), deadline=deadline_of(request), tenant=request.scope["vprm.tenant"], **others
    )


def deadline_of(request: Request) -> float | None:
    """When the caller stops waiting, of time.monotonic. Raises InputError if the header is no number."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    return time.monotonic() + _integer(text, TIMEOUT_HEADER, "a number of milliseconds") / 1000


async def unless_gone(request: Request, work: Awaitable[Value]) -> Value:
    """The result of `work`, which is cancelled if the caller closes the connection. Raises GoneError then.

    The body has to be read already.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise GoneError
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def is_engine_failure(error: Exception) -> bool:
    """Whether the operator should look at it."""
    return isinstance(error, EngineError) or not isinstance(error, VprmError | GoneError)
