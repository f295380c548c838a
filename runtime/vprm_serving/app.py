"""The server as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from vprm_serving import (
    compat_endpoints,
    image_endpoints,
    page_endpoints,
    report_endpoint,
    score_endpoints,
    session_endpoints,
    status_endpoints,
)
from vprm_serving.endpoint import Endpoint
from vprm_serving.http import not_routed
from vprm_serving.middleware import Surroundings
from vprm_serving.service import Service
from vprm_serving.settings import read_api_keys

ROUTES = [
    Route("/v1/score", Endpoint(score_endpoints.score), methods=["POST"]),
    Route("/v1/select", Endpoint(score_endpoints.select), methods=["POST"]),
    Route("/v1/score/stream", Endpoint(score_endpoints.score_stream), methods=["POST"]),
    Route("/v1/images/{digest}", Endpoint(image_endpoints.put, counts=False), methods=["PUT"]),
    Route("/v1/images/{digest}", Endpoint(image_endpoints.head, counts=False), methods=["HEAD"]),
    Route("/v1/sessions", Endpoint(session_endpoints.create), methods=["POST"]),
    Route("/v1/sessions/{session}", Endpoint(session_endpoints.show, counts=False), methods=["GET"]),
    Route("/v1/sessions/{session}", Endpoint(session_endpoints.delete, counts=False), methods=["DELETE"]),
    Route("/v1/sessions/{session}/append", Endpoint(session_endpoints.append), methods=["POST"]),
    Route("/v1/sessions/{session}/score_next", Endpoint(session_endpoints.score_next), methods=["POST"]),
    Route("/v1/sessions/{session}/fork", Endpoint(session_endpoints.fork, counts=False), methods=["POST"]),
    Route("/v1/sessions/{session}/rewind", Endpoint(session_endpoints.rewind, counts=False), methods=["POST"]),
    Route("/get_reward", Endpoint(compat_endpoints.get_reward), methods=["POST"]),
    Route("/pooling", Endpoint(compat_endpoints.pooling), methods=["POST"]),
    Route("/v1/report", Endpoint(report_endpoint.report, counts=False), methods=["POST"]),
    Route("/v1/model", status_endpoints.model),
    Route("/healthz", status_endpoints.healthz),
    Route("/readyz", status_endpoints.readyz),
    Route("/metrics", status_endpoints.metrics),
    Route("/", page_endpoints.index),
    Route("/page/{name}", page_endpoints.asset),
    Route("/docs", page_endpoints.docs),
    Route("/openapi.json", page_endpoints.openapi),
]


def make_app(service: Service) -> ASGIApp:
    """The application of an opened service; the service is started and stopped with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await service.start()
        housekeeping = asyncio.create_task(service.keep_house())
        try:
            yield
        finally:
            housekeeping.cancel()
            service.stop()

    app = Starlette(routes=ROUTES, lifespan=lifespan, exception_handlers={404: not_routed, 405: not_routed})
    app.state.service = service
    return Surroundings(app, read_api_keys(service.settings.api_key_file), service.settings.limits)
