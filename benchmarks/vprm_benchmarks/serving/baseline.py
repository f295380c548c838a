"""The server that people write by hand: one lock, nothing kept between requests. The same engine, the same rows."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vprm_runtime import StepScorer
from vprm_runtime.datasets.row import row_from_record


def make_app(scorer: StepScorer) -> Starlette:
    """POST /v1/score with the rows and documents of `vprm serve`. The scorer's own lock is the one lock."""

    async def score(request: Request) -> Response:
        row = row_from_record(await request.json(), 0, Path())
        result = await run_in_threadpool(scorer.score, list(row.images), row.question, row.responses)
        return JSONResponse(result.to_dict(row.id))

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": True})

    return Starlette(routes=[Route("/v1/score", score, methods=["POST"]), Route("/readyz", ready)])


if __name__ == "__main__":  # python -m vprm_benchmarks.serving.baseline BUNDLE PORT
    uvicorn.run(make_app(StepScorer.open(sys.argv[1], "cpu")), port=int(sys.argv[2]), access_log=False, backlog=2048)
