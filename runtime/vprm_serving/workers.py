"""Several serving processes behind one address: `vprm serve --workers N`.

The front process listens, reads each request's body and passes it on, over a Unix socket, to the worker that its prefix
belongs to (rendezvous hashing), so that each prefix is run and kept in one place. A worker that dies is started again;
requests that it had not answered, and that may be sent twice, go to the next one in the key's order.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from vprm_runtime.errors import InputError, ServerError
from vprm_serving.http import GoneError, error_response, parsed_json, read_bounded, unless_gone
from vprm_serving.logs import log
from vprm_serving.metrics import CONTENT_TYPE
from vprm_serving.rendezvous import ranked
from vprm_serving.settings import Settings
from vprm_serving.worker_metrics import WorkerMetrics

_SESSION_PREFIX = "w"  # a session's id names its worker: w2.xxxx
_DROPPED = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_RESTART_S = 1.0
WATCH_S = 5.0
STUCK_LOOKS = 3
"""A worker is killed if so many looks, `WATCH_S` apart, find it stuck."""
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]


class Worker:
    """One serving process, started again whenever it ends."""

    def __init__(self, number: int, command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self.number, self.socket = number, folder / f"{number}.sock"
        self._command = [*command, "--uds", str(self.socket), "--session-prefix", f"{_SESSION_PREFIX}{number}."]
        self._command += ["--parent", str(os.getpid())]
        self._environment = environment
        self.process: asyncio.subprocess.Process | None = None
        self.http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=None)),
            base_url="http://worker",
            timeout=None,
        )
        self.starts = 0
        self.was_ready = False

    async def run(self) -> None:
        """Keep a process alive until cancelled."""
        while True:
            self.socket.unlink(missing_ok=True)
            self.starts += 1
            self.process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, start_new_session=True
            )
            code = await self.process.wait()
            log("worker ended", worker=self.number, code=code)
            if not self.was_ready:
                raise ServerError(f"worker {self.number} ended with code {code} before it was ready: see what it wrote")
            await asyncio.sleep(_RESTART_S)

    async def watch(self) -> None:
        """Kill a process that is stuck, until cancelled: `run` starts it again, its requests go to the next worker."""
        stuck = 0
        while True:
            await asyncio.sleep(WATCH_S)
            stuck = stuck + 1 if await self._is_stuck() else 0
            if stuck == STUCK_LOOKS and self.process is not None and self.process.returncode is None:
                log("worker stuck", worker=self.number, pid=self.process.pid)
                self.process.kill()
                stuck = 0

    async def _is_stuck(self) -> bool:
        """Whether it listens, but does not answer, or says itself that its engine makes no progress."""
        try:
            return (await self.http.get("/healthz", timeout=WATCH_S)).status_code == 503
        except httpx.ReadTimeout:
            return True
        except httpx.TransportError:  # it is being started
            return False

    async def is_ready(self) -> bool:
        """Whether it takes requests."""
        try:
            is_ready = (await self.http.get("/readyz", timeout=5)).status_code == 200
            self.was_ready = self.was_ready or is_ready
            return is_ready
        except httpx.TransportError:
            return False

    async def stop(self, drain_s: float) -> None:
        """Let it answer what it has, and end it."""
        await self.http.aclose()
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), drain_s + 10)
            except TimeoutError:
                self.process.kill()


class Front:
    """Chooses workers and passes requests on."""

    def __init__(self, workers: list[Worker], settings: Settings, folder: Path) -> None:
        """`folder` has the workers' sockets."""
        self.workers, self._settings, self.folder = workers, settings, folder
        self._worker_metrics = WorkerMetrics()
        self.requests = 0
        self.held_bytes = 0
        self.is_draining = False

    @property
    def pending(self) -> int:
        """Requests that are not answered."""
        return self.requests

    async def handle(self, request: Request) -> Response:
        """Answer one request with what a worker answers."""
        self.requests += 1
        try:
            if self.is_draining and request.url.path not in ("/healthz", "/readyz", "/metrics"):
                raise ServerError("the server is stopping: send the request to another one", code="draining")
            return await self._handle(request)
        except (InputError, ServerError) as error:
            return error_response(error)
        except (ClientDisconnect, GoneError):  # what was passed on is cancelled: the worker sees its caller leave
            return Response(status_code=499)
        finally:
            self.requests -= 1

    async def _handle(self, request: Request) -> Response:
        path = request.url.path
        if path in ("/healthz", "/readyz"):
            return await self._health(path)
        if path == "/metrics":
            return await self._metrics()
        held_bytes = 0

        def hold(more: int) -> None:
            nonlocal held_bytes
            if self.held_bytes + more > self._settings.limits.max_held_bytes:
                raise ServerError("the bodies that are being read take all memory", code="overloaded", retry_after_s=1)
            self.held_bytes += more
            held_bytes += more

        try:
            return await self._pass_on(request, await read_bounded(request, self._settings.limits, hold))
        finally:
            self.held_bytes -= held_bytes

    async def _pass_on(self, request: Request, body: bytes) -> Response:
        """What the worker answers that the request belongs to."""
        path = request.url.path
        if path.startswith("/v1/images/"):  # every worker gets every image: any may be asked about it
            answers = await asyncio.gather(
                *(self._send(w, request, body) for w in self.workers), return_exceptions=True
            )
            return _response(max(_answered(answers), key=lambda answer: answer.status_code))
        owner = _owner_of_session(path)
        if owner is not None:
            if not owner < len(self.workers):
                raise InputError("no such session is open", code="unknown_session")
            return await self._first(request, body, [self.workers[owner]])
        places = ranked(affinity_key(path, body), len(self.workers))
        return await self._first(request, body, [self.workers[place] for place in places])

    async def _first(self, request: Request, body: bytes, workers: Sequence[Worker]) -> Response:
        """The answer of the first worker that gives one; a worker that dies on a request is passed over."""
        for worker in workers:
            try:
                if request.url.path.endswith("/stream"):
                    return await unless_gone(request, self._stream(worker, request, body))
                return _response(await unless_gone(request, self._send(worker, request, body)))
            except httpx.TransportError as error:
                log("worker failed", worker=worker.number, path=request.url.path, error=repr(error))
        raise _none_answered()

    async def _send(self, worker: Worker, request: Request, body: bytes) -> httpx.Response:
        return await worker.http.request(request.method, _target(request), content=body, headers=_headers(request))

    async def _stream(self, worker: Worker, request: Request, body: bytes) -> Response:
        sent = worker.http.build_request(request.method, _target(request), content=body, headers=_headers(request))
        answer = await worker.http.send(sent, stream=True)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                await answer.aclose()

        return StreamingResponse(chunks(), answer.status_code, _kept(answer))

    async def _health(self, path: str) -> Response:
        answers = await asyncio.gather(*(self._ask(worker, path) for worker in self.workers))
        good = [answer is not None and answer.status_code == 200 for answer in answers]
        is_good = any(good) and not (path == "/readyz" and self.is_draining)
        return JSONResponse({"workers": good, "draining": self.is_draining}, 200 if is_good else 503)

    async def _metrics(self) -> Response:
        """The metrics of all workers together."""
        answers = await asyncio.gather(*(self._ask(worker, "/metrics") for worker in self.workers))
        scraped = {
            worker.number: (str(worker.starts), answer.text)
            for worker, answer in zip(self.workers, answers, strict=True)
            if answer is not None
        }
        return Response(self._worker_metrics.text(scraped), media_type=CONTENT_TYPE)

    async def _ask(self, worker: Worker, path: str) -> httpx.Response | None:
        try:
            return await worker.http.get(path, timeout=5)
        except httpx.TransportError:
            return None


def _answered(replies: Sequence[httpx.Response | BaseException]) -> list[httpx.Response]:
    """The answers; a worker that is being started gives none, and is sent the image when it is asked about it.

    Raises ServerError if there is none.
    """
    for reply in replies:
        if isinstance(reply, BaseException) and not isinstance(reply, httpx.TransportError):
            raise reply
    answers = [reply for reply in replies if isinstance(reply, httpx.Response)]
    if not answers:
        raise _none_answered()
    return answers


def _none_answered() -> ServerError:
    return ServerError("no worker answered: they are being started", code="draining", retry_after_s=2)


def affinity_key(path: str, body: bytes) -> bytes:
    """What two requests share that are about one prefix: images and question as they were sent, not decoded."""
    digest = hashlib.blake2b(digest_size=16)
    if path.startswith("/v1/images/"):
        digest.update(path.encode())
        return digest.digest()
    try:
        row = parsed_json(body)
    except InputError:
        row = None
    if isinstance(row, dict):
        if path == "/get_reward":
            parts: list[Any] = [row.get("labels"), row.get("prompts")]
        elif path == "/pooling":
            messages = row.get("messages")
            parts = messages[:1] if isinstance(messages, list) else []
        else:
            parts = [value for key, value in sorted(row.items()) if key not in ("id", "responses", "max_steps")]
        digest.update(json.dumps(parts, sort_keys=True).encode())
    else:
        digest.update(body)
    return digest.digest()


def _owner_of_session(path: str) -> int | None:
    """Which worker has the session of that path."""
    parts = path.split("/")
    if len(parts) < 4 or parts[1:3] != ["v1", "sessions"]:
        return None
    number = parts[3].partition(".")[0].removeprefix(_SESSION_PREFIX)
    return int(number) if number.isascii() and number.isdigit() else len(parts[3]) + (1 << 20)


def _target(request: Request) -> httpx.URL:
    """The address as it was sent: a parameter that is there twice, or escaped, is for the worker to judge."""
    query = request.scope["query_string"]
    return httpx.URL("http://worker", raw_path=request.scope["raw_path"] + (b"?" + query if query else b""))


def _headers(request: Request) -> list[tuple[str, str]]:
    kept = [(name, value) for name, value in request.headers.items() if name not in (*_DROPPED, "x-request-id")]
    return [*kept, ("x-request-id", request.scope["vprm.id"])]


def _kept(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in (*_DROPPED, "x-request-id")}


def _response(answer: httpx.Response) -> Response:
    return Response(answer.content, answer.status_code, _kept(answer))


def make_front(settings: Settings, arguments: Sequence[str]) -> tuple[Starlette, Front]:
    """The front's application; its workers are started with it. `arguments` are those of `vprm serve` for a worker."""
    folder = Path(tempfile.mkdtemp(prefix="vprm-serve-"))
    command = [sys.executable, "-m", "vprm", "serve", *arguments]
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    workers = []
    for number in range(settings.workers):
        environment = dict(os.environ)
        if len(gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        workers.append(Worker(number, command, folder, environment))
    front = Front(workers, settings, folder)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = [asyncio.create_task(work) for worker in workers for work in (worker.run(), worker.watch())]
        try:
            while not front.is_draining and not all([await worker.is_ready() for worker in workers]):
                await asyncio.wait(running, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
                for ended in (task for task in running if task.done()):
                    ended.result()
            if front.is_draining:
                raise ServerError("stopped before the workers were ready", code="draining")
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*(worker.stop(settings.drain_s) for worker in workers))

    return Starlette(routes=[Route("/{path:path}", front.handle, methods=_METHODS)], lifespan=lifespan), front
