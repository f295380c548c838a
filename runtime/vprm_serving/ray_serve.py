"""`vprm serve --ray`: the server as replicas on a Ray cluster, each prefix on one of them.

    Ray's HTTP proxy -> Ingress (hashes what decides the prefix) -> Replica (the whole server of one process)

A replica has the queue, the cache and the limits; the ingress chooses by consistent hashing, and tries again, with
jitter and until the caller's deadline, if a replica dies on a request. Sessions live in their replica: when it dies,
the caller gets 503 with the code `session_lost`, opens another session and replays its steps.
"""

import asyncio
import contextlib
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
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vprm_runtime.errors import InputError, ServerError
from vprm_serving.app import make_app
from vprm_serving.http import TIMEOUT_HEADER, error_response, read_bounded
from vprm_serving.logs import log
from vprm_serving.service import Service
from vprm_serving.settings import Limits, Settings
from vprm_serving.uploads import SCHEME, UploadStore
from vprm_serving.workers import affinity_key

_MAX_ONGOING = 1024  # high: a full replica sends a prefix elsewhere; the queue and its limits are in the replica
_TRIES = 6
_FIRST_WAIT_S = 0.1
_DEADLINE_S = 120.0
_SESSION = re.compile(r"/v1/sessions/([0-9a-f]{32})\.([^/]+)(/.*)?")
_DIGEST = re.compile(SCHEME.encode() + rb"([0-9a-fA-F]{64})")
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

    def __init__(self, replicas: Any, limits: Limits, upload_bytes: int) -> None:
        self._replicas, self._limits = replicas, limits
        self._uploads = UploadStore(upload_bytes, limits.upload_ttl_s)

    async def __call__(self, request: Request) -> Response:
        """Answer a request with what a replica answers."""
        path = request.url.path
        try:
            body = await read_bounded(request, self._limits)
        except InputError as error:
            return error_response(error)
        key, session = affinity_key(path, body).hex(), _SESSION.fullmatch(path)
        if session is not None:
            key, path = session[1], f"/v1/sessions/{session[2]}{session[3] or ''}"
        query = f"?{request.url.query}" if request.url.query else ""
        headers = [(name, value) for name, value in request.headers.items() if name not in _DROPPED]
        timeout = request.headers.get(TIMEOUT_HEADER, "")
        deadline = time.monotonic() + (int(timeout) / 1000 if timeout.isdigit() else _DEADLINE_S)
        passed = _Passed(request.method, f"{path}{query}", headers, body, key, bool(session), deadline)
        try:
            status, answer_headers, content = await self._answer_with_images(passed)
        except ServerError as error:
            response = error_response(error)
            response.status_code = 429 if error.code == "overloaded" else 503
            return response
        if request.method == "PUT" and status < 300:  # the replica has checked it
            self._uploads.put(path.rpartition("/")[2], body)
        if status == 201 and path.startswith("/v1/sessions"):  # its id says where it is
            facts = json.loads(content)
            named = {**facts, "session": f"{key}.{facts['session']}"}
            return JSONResponse(named, status, _plain(answer_headers))
        return Response(content, status, answer_headers)

    async def _answer_with_images(self, passed: "_Passed") -> Answer:
        """The answer of a replica, which is sent the uploads that the request names if it does not have them."""
        for _ in range(_TRIES):
            answer = await self._answer(passed)
            images = self._missing_images(answer, passed.body)
            if not images:
                break
            for digest, content in images.items():
                put = replace(passed, method="PUT", target=f"/v1/images/{digest}", body=content, is_session=False)
                await self._answer(put)
        return answer

    def _missing_images(self, answer: Answer, body: bytes) -> dict[str, bytes]:
        """Uploads by digest, if the replica did not know one that the body names."""
        if answer[0] != 404 or json.loads(answer[2] or b"{}").get("code") != "unknown_image":
            return {}
        found = {}
        for digest in {match.decode().lower() for match in _DIGEST.findall(body)}:
            with contextlib.suppress(InputError):  # not here either (any more): the client sends it again
                found[digest] = self._uploads.get(digest)
        return found

    async def _answer(self, passed: "_Passed") -> Answer:
        replicas = self._replicas.options(session_id=passed.key)
        for number in range(_TRIES):
            try:
                answer: Answer = await replicas.call.remote(passed.method, passed.target, passed.headers, passed.body)
                return answer
            except BackPressureError as error:
                raise ServerError("all replicas are full: try again", code="overloaded", retry_after_s=1) from error
            except (ray.exceptions.RayActorError, DeploymentUnavailableError) as error:
                if passed.is_session:
                    raise ServerError(
                        "the replica that had this session ended: open another session and replay its steps",
                        code="session_lost",
                    ) from error
                wait = _FIRST_WAIT_S * 2**number * random.uniform(0.5, 1.5)
                log("replica died on a request", target=passed.target, number=number, wait_s=round(wait, 2))
                if time.monotonic() + wait > passed.deadline:
                    break
                await asyncio.sleep(wait)
        raise ServerError("no replica answered: they are being started", code="draining", retry_after_s=2)


@dataclass(frozen=True)
class _Passed:
    """A request as it is passed on. `deadline` is of time.monotonic."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    key: str
    is_session: bool
    deadline: float


class PatientRouter(ConsistentHashRouter):  # type: ignore[misc]  # Ray has no types here
    """Waits for a replica that answers late since it computes: it is the one that has the prefix."""

    queue_len_response_deadline_s = 5.0
    max_queue_len_response_deadline_s = 10.0


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
    router = RequestRouterConfig(request_router_class=PatientRouter, request_router_kwargs={"num_fallback_replicas": 1})
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
    return ingress.bind(replica.bind(inner), limits, upload_bytes)


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
