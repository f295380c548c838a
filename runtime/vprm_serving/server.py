"""Listening, and ending well: on the first signal the server drains, on the second it aborts."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from vprm_runtime.errors import InputError
from vprm_serving.app import make_app
from vprm_serving.connections import BoundedProtocol
from vprm_serving.logs import log
from vprm_serving.middleware import Surroundings
from vprm_serving.service import Service
from vprm_serving.settings import Settings, read_api_keys
from vprm_serving.short_turns import take_short_turns
from vprm_serving.workers import make_front

BACKLOG = 2048
KEEP_ALIVE_S = 75
_POLL_S = 0.05
_SWITCH_S = 0.001  # a request crosses threads four times, and each may wait that long for another one's Python code


class Drained(Protocol):
    """What is told to take no more requests, and says how many it has."""

    is_draining: bool

    @property
    def pending(self) -> int:
        """Requests that are not answered."""
        ...


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGTERM answers everything that it has accepted before it stops listening."""

    def __init__(self, config: uvicorn.Config, drained: Drained, settings: Settings, engine: str) -> None:
        super().__init__(config)
        self._drained, self._settings, self._engine = drained, settings, engine
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so when callers can connect."""
        await super().startup(sockets)
        if self.started:
            settings = self._settings
            where = f"unix:{settings.uds}" if settings.uds else f"http://{settings.host}:{settings.port}"
            log("listening", address=where, engine=self._engine, pid=os.getpid())

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
        self._drained.is_draining = True
        log("draining", signal=name, requests=self._drained.pending)
        until = time.monotonic() + self._settings.drain_s
        while self._drained.pending and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        log("drained", requests=self._drained.pending)
        self.should_exit = True
        if self._drained.pending:
            self.force_exit = True


def serve(settings: Settings, session_prefix: str = "", parent: int | None = None) -> int:
    """Open the bundle and serve until a signal, or until the process `parent` is gone. Returns the exit code."""
    service = Service(settings, id_prefix=session_prefix)
    service.parent = parent
    return _run(make_app(service), service, settings, service.scorers[0].engine.description)


def serve_with_workers(settings: Settings, arguments: Sequence[str]) -> int:
    """Serve from several processes, each started with `arguments`. Returns the exit code."""
    app, front = make_front(settings, arguments)
    keys = read_api_keys(settings.api_key_file)
    try:
        return _run(Surroundings(app, keys, settings.limits), front, settings, f"{settings.workers} workers")
    finally:
        shutil.rmtree(front.folder, ignore_errors=True)  # an abort leaves the workers' sockets


def _run(app: ASGIApp, drained: Drained, settings: Settings, engine: str) -> int:
    if settings.uds is not None:
        claim_socket(settings.uds)
    raise_file_limit()
    sys.setswitchinterval(_SWITCH_S)
    take_short_turns()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        uds=None if settings.uds is None else str(settings.uds),
        backlog=BACKLOG,
        http=BoundedProtocol,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
    )
    server = DrainingServer(config, drained, settings, engine)
    try:
        server.run()
    finally:
        if settings.uds is not None and server.started:
            settings.uds.unlink(missing_ok=True)
    sys.stderr.flush()
    return 0 if server.started else 1


def claim_socket(path: Path) -> None:
    """Remove what a server that was killed left at the path. Raises InputError if the path cannot be listened on."""
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory: make it, or give --uds another path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not path.is_socket():
                raise InputError(f"{path} is there already, and no socket: give --uds another path") from None
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise InputError(f"no socket can be at {path} ({error}): give --uds a short path of your own") from error
    raise InputError(f"another server listens on {path}: stop it, or give --uds another path")


def raise_file_limit() -> None:
    """As many open files as the system allows: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
