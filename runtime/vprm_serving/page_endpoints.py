"""The page at /, the description at /docs and /openapi.json. Everything they load comes from this server."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from vprm_serving.openapi import specification

PAGE = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache"}


async def index(request: Request) -> Response:
    """The page."""
    return FileResponse(PAGE / "index.html", headers=_HEADERS)


async def docs(request: Request) -> Response:
    """The HTTP interface, for people."""
    return FileResponse(PAGE / "docs.html", headers=_HEADERS)


async def asset(request: Request) -> Response:
    """One of the page's files."""
    name = request.path_params["name"]
    known = {path.name for path in PAGE.iterdir() if path.suffix in (".css", ".js")}
    return FileResponse(PAGE / name, headers=_HEADERS) if name in known else Response(status_code=404)


async def openapi(request: Request) -> Response:
    """The HTTP interface, for programs."""
    return JSONResponse(specification())
