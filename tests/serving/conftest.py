"""Real servers on real sockets, in threads of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from vprm_runtime import StepScorer
from vprm_runtime.engines.base import Engine
from vprm_serving.app import make_app
from vprm_serving.connections import BoundedProtocol
from vprm_serving.service import Service, open_scorers
from vprm_serving.settings import Limits, Settings


class RunningServer:
    """A server that listens, its service, and an HTTP client for it."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.url = service, url
        self.http = httpx.Client(base_url=url, timeout=60)

    def score(self, row: dict[str, Any], **query: Any) -> httpx.Response:
        """POST /v1/score."""
        return self.http.post("/v1/score", json=row, params=query)

    def metric(self, name: str) -> float:
        """One sample of /metrics."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")


@contextmanager
def running(service: Service) -> Iterator[RunningServer]:
    """Serve in a thread until the block ends."""
    config = uvicorn.Config(
        make_app(service), port=0, http=BoundedProtocol, log_config=None, access_log=False, lifespan="on", backlog=2048
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    started = RunningServer(service, f"http://127.0.0.1:{port}")
    try:
        yield started
    finally:
        started.http.close()
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def serve(demo_bundle: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers: settings as keywords, limits as a dict, `wrap` to put something around the engine."""
    with ExitStack() as stack:

        def start(
            wrap: Callable[[Engine], Engine] | None = None, limits: dict[str, Any] | None = None, **settings: Any
        ) -> RunningServer:
            chosen = replace(Settings(bundle=demo_bundle, limits=Limits(**(limits or {}))), **settings)
            scorers: list[StepScorer] | None = None
            if wrap is not None:
                scorers = [
                    scorer.with_engine(
                        wrap(scorer.engine),
                        max_block_tokens=scorer.max_block_tokens,
                        prefix_cache_bytes=chosen.cache_bytes,
                    )
                    for scorer in open_scorers(chosen)
                ]
            return stack.enter_context(running(Service(chosen, scorers)))

        yield start


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[RunningServer]:
    """One server with default settings for a whole module."""
    with running(Service(Settings(bundle=demo_bundle))) as started:
        yield started
