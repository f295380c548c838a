"""What happens around every endpoint that does work: a place in the queue, errors as JSON, counters."""

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vprm_serving.admission import Place
from vprm_serving.http import (
    GoneError,
    content_length,
    is_engine_failure,
    reason_of,
    refuse,
    service_of,
)
from vprm_serving.logs import LOGGER

Handler = Callable[[Request, Place], Awaitable[Response]]


class Endpoint:
    """An ASGI application around a handler. The place is held until the answer's last byte is handed over."""

    def __init__(self, handler: Handler, counts: bool = True) -> None:
        """`counts`: whether its requests are scoring requests for the metrics."""
        self.handler = handler
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        service = service_of(request)
        started = time.monotonic()
        try:
            service.check_open()
            with service.admission.enter(content_length(request), request.scope["vprm.tenant"]) as place:
                response = await self.handler(request, place)
                if self._counts and response.media_type != "text/event-stream":  # a stream counts itself at its end
                    service.metrics.success.inc()
                await response(scope, receive, send)
                if self._counts:
                    service.metrics.latency.observe(time.monotonic() - started)
        except Exception as error:  # noqa: BLE001  whatever it is, the caller gets an answer and others are not touched
            scope["vprm.reason"] = reason_of(error)
            if self._counts:
                service.metrics.failure.labels(reason_of(error)).inc()
            if is_engine_failure(error):
                LOGGER.error("request failed", exc_info=error, extra={"fields": {"request_id": scope.get("vprm.id")}})
            if isinstance(error, GoneError):
                return
            await refuse(request, error, service.settings.limits, send)
