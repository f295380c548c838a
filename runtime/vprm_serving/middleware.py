"""Around every request: its id, the key that it must show, a line in the log."""

import hmac
import logging
import re
import secrets
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vprm_runtime.errors import ServerError
from vprm_serving.http import refuse
from vprm_serving.logs import log
from vprm_serving.settings import Limits

QUIET_PATHS = ("/healthz", "/readyz", "/metrics", "/v1/model")
"""What is asked all the time and logged at level debug."""
OPEN_PATHS = ("/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json")
"""What needs no key: health, metrics, the page itself, which shows nothing until it is given one, its description."""
OPEN_PREFIX = "/page/"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Surroundings:
    """An ASGI application around the whole server."""

    def __init__(self, app: ASGIApp, api_keys: tuple[bytes, ...], limits: Limits) -> None:
        self._app, self._keys, self._limits = app, api_keys, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if it may pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        name = scope["vprm.id"] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        started, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode("latin-1"))]
            await send(message)

        try:
            scope["vprm.tenant"], may_pass = self._tenant(scope["path"], headers)
            if may_pass:
                await self._app(scope, receive, send_with_id)
            else:
                error = ServerError("a key is needed: send  Authorization: Bearer KEY", code="unauthorized")
                await refuse(Request(scope, receive), error, self._limits, send_with_id)
        finally:
            took_ms = round(1000 * (time.monotonic() - started), 1)
            level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
            more = {"reason": scope["vprm.reason"]} if "vprm.reason" in scope else {}
            facts = scope.get("vprm.facts", {})
            log("request", level, request_id=name, method=scope["method"], path=scope["path"], status=status,
                ms=took_ms, **facts, **more)  # fmt: skip

    def _tenant(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, bool]:
        """The number of the key that is shown, and whether the request may pass."""
        if not self._keys or path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return 0, True
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        found = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return found.index(True) if any(found) else 0, scheme.lower() == b"bearer" and any(found)
