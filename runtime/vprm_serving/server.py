"""Listening, and ending well: on the first signal the server drains, on the second it aborts."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator

import uvicorn

from vprm_serving.app import make_app
from vprm_serving.logs import log
from vprm_serving.service import Service
from vprm_serving.settings import Settings

BACKLOG = 2048
KEEP_ALIVE_S = 75
_POLL_S = 0.05


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGTERM answers everything that it has accepted before it stops listening."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT in the event loop for as long as the server runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(signal.Signals(number).name))
        else:
            log("aborting", signal=signal.Signals(number).name)
            self.should_exit = self.force_exit = True

    async def _drain(self, name: str) -> None:
        service = self._service
        service.is_draining = True
        log("draining", signal=name, requests=service.admission.requests)
        until = time.monotonic() + service.settings.drain_s
        while service.admission.requests and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        log("drained", requests=service.admission.requests)
        self.should_exit = True
        if service.admission.requests:
            self.force_exit = True


def serve(settings: Settings) -> int:
    """Open the bundle and serve until a signal. Returns the exit code."""
    raise_file_limit()
    service = Service(settings)
    config = uvicorn.Config(
        make_app(service),
        host=settings.host,
        port=settings.port,
        uds=None if settings.uds is None else str(settings.uds),
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
    )
    server = DrainingServer(config, service)
    where = f"unix:{settings.uds}" if settings.uds else f"http://{settings.host}:{settings.port}"
    log("listening", address=where, engine=service.scorers[0].engine.description, pid=os.getpid())
    server.run()
    sys.stderr.flush()
    return 0 if server.started else 1


def raise_file_limit() -> None:
    """As many open files as the system allows: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
