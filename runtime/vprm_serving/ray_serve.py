"""`vprm serve --ray`: the server as replicas on a Ray cluster, each prefix on one of them.

    Ray's HTTP proxy -> Ingress (hashes what decides the prefix) -> Replica (the whole server of one process)

A replica has the queue, the cache and the limits; the ingress chooses by consistent hashing, and tries again, with
jitter and until the caller's deadline, if a replica dies on a request. Sessions live in their replica: when it dies,
the caller gets 503 with the code `session_lost`, opens another session and replays its steps.
"""

import asyncio
import base64
import json
import os
import random
import re
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before ray is imported: nothing is reported to anyone
import httpx
import ray
from ray import serve
from ray.serve.config import HTTPOptions, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vprm_runtime.errors import ServerError
from vprm_serving.app import make_app
from vprm_serving.http import TIMEOUT_HEADER, error_response
from vprm_serving.logs import log
from vprm_serving.service import Service
from vprm_serving.settings import Settings
from vprm_serving.uploads import SCHEME, UploadStore
from vprm_serving.workers import affinity_key

_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_MAX_ONGOING = 1024  # high: a full replica sends a prefix elsewhere; the queue and its limits are in the replica
_TRIES = 6
_FIRST_WAIT_S = 0.1
_DEADLINE_S = 120.0
_SESSION = re.compile(r"/v1/sessions/([0-9a-f]{32})\.([^/]+)(/.*)?")
_DROPPED = frozenset({"host", "content-length", "transfer-encoding", "connection"})

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class RayOptions:
    """Where and how many. Between `min_replicas` and `max_replicas`, Ray aims at `target_ongoing` requests for each."""

    address: str = "local"
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing: float = 8.0
    cpus: float = 1.0
    gpus: float = 0.0


class Replica:
    """One process's server."""

    def __init__(self, settings: Settings) -> None:
        """Open the bundle."""
        self._service = Service(settings)
        transport = httpx.ASGITransport(make_app(self._service))
        self._http = httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=None)
        self._housekeeping: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def call(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Answer a request."""
        await self._start()
        answer = await self._http.request(method, path, headers=headers, content=body)
        kept = {name: value for name, value in answer.headers.items() if name not in _DROPPED}
        return answer.status_code, {**kept, "x-vprm-replica": str(os.getpid())}, answer.content

    async def check_health(self) -> None:
        """Raise if blocks do not move: Ray then replaces the replica."""
        status, _, body = await self.call("GET", "/healthz", [], b"")
        if status != 200:
            raise RuntimeError(f"the replica is unhealthy: {body[:200]!r}")

    async def _start(self) -> None:
        async with self._starting:
            if self._housekeeping is None:
                await self._service.start()
                self._housekeeping = asyncio.create_task(self._service.keep_house())


class Ingress:
    """Chooses a replica for each request."""

    def __init__(self, replicas: Any, upload_bytes: int, upload_ttl_s: float) -> None:
        self._replicas = replicas
        self._uploads = UploadStore(upload_bytes, upload_ttl_s)

    async def __call__(self, request: Request) -> Response:
        """Answer a request with what a replica answers."""
        body, path = await request.body(), request.url.path
        key, session = affinity_key(path, body).hex(), _SESSION.fullmatch(path)
        if session is not None:
            key, path = session[1], f"/v1/sessions/{session[2]}{session[3] or ''}"
        try:
            status, headers, content = await self._answer(request, path, key, self._with_images(body), bool(session))
        except ServerError as error:
            response = error_response(error)
            response.status_code = 429 if error.code == "overloaded" else 503
            return response
        if request.method == "PUT" and status < 300:  # the replica has checked it
            self._uploads.put(path.rpartition("/")[2], body)
        if status == 201 and path.startswith("/v1/sessions"):  # its id says where it is
            facts = json.loads(content)
            return JSONResponse({**facts, "session": f"{key}.{facts['session']}"}, status, _plain(headers))
        return Response(content, status, headers)

    async def _answer(self, request: Request, path: str, key: str, body: bytes, is_session: bool) -> Answer:
        query = f"?{request.url.query}" if request.url.query else ""
        headers = [(name, value) for name, value in request.headers.items() if name not in _DROPPED]
        timeout = request.headers.get(TIMEOUT_HEADER, "")
        deadline = time.monotonic() + (int(timeout) / 1000 if timeout.isdigit() else _DEADLINE_S)
        replicas = self._replicas.options(session_id=key)
        for number in range(_TRIES):
            try:
                answer: Answer = await replicas.call.remote(request.method, f"{path}{query}", headers, body)
                return answer
            except BackPressureError as error:
                raise ServerError("all replicas are full: try again", code="overloaded", retry_after_s=1) from error
            except (ray.exceptions.RayActorError, DeploymentUnavailableError) as error:
                if is_session:
                    raise ServerError(
                        "the replica that had this session ended: open another session and replay its steps",
                        code="session_lost",
                    ) from error
                wait = _FIRST_WAIT_S * 2**number * random.uniform(0.5, 1.5)
                log("replica died on a request", path=path, number=number, wait_s=round(wait, 2))
                if time.monotonic() + wait > deadline:
                    break
                await asyncio.sleep(wait)
        raise ServerError("no replica answered: they are being started", code="draining", retry_after_s=2)

    def _with_images(self, body: bytes) -> bytes:
        """The body with uploaded images in it, as any replica may be asked about them."""
        if SCHEME.encode() not in body or not len(self._uploads):
            return body

        def inlined(match: re.Match[bytes]) -> bytes:
            try:
                content = self._uploads.get(match[1].decode())
            except (KeyError, ValueError):
                return match[0]
            return b'"data:;base64,' + base64.b64encode(content) + b'"'

        return re.sub(rb'"' + SCHEME.encode() + rb'([0-9a-fA-F]{64})"', inlined, body)


def application(settings: Settings, options: RayOptions) -> Any:
    """The Ray Serve application: one ingress, and replicas that Ray scales within the options."""
    scaling: dict[str, Any] = {"num_replicas": options.min_replicas}
    if options.max_replicas > options.min_replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": options.min_replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": options.target_ongoing,
            }
        }
    router = RequestRouterConfig(request_router_class=_ROUTER, request_router_kwargs={"num_fallback_replicas": 1})
    resources = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    replica = serve.deployment(
        Replica, name="Replica", max_ongoing_requests=_MAX_ONGOING, request_router_config=router,
        ray_actor_options=resources, graceful_shutdown_timeout_s=settings.drain_s, health_check_period_s=5, **scaling,
    )  # fmt: skip
    limits = settings.limits
    ingress = serve.deployment(
        Ingress, name="Ingress", num_replicas=1, max_ongoing_requests=4 * _MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},
    )  # fmt: skip
    upload_bytes = int(limits.upload_share * settings.cache_bytes)
    inner = replace(settings, threads=settings.threads or max(1, int(options.cpus)))
    return ingress.bind(replica.bind(inner), upload_bytes, limits.upload_ttl_s)


def serve_on_ray(settings: Settings, options: RayOptions) -> int:
    """Serve until a signal. Returns the exit code."""
    if options.address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        cpus = options.max_replicas * options.cpus + 1
        ray.init(address="local", num_cpus=int(cpus), include_dashboard=False, log_to_driver=False)
    else:
        ray.init(address=options.address, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=None))
    serve.run(application(settings, options), name="vprm", route_prefix="/", blocking=False)
    log("listening", address=f"http://{settings.host}:{settings.port}", replicas=options.min_replicas, pid=os.getpid())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
    return 0


def _plain(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in ("content-type", "content-length")}
