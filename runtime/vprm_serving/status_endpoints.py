"""What operators and orchestrators ask: health, readiness, metrics, the model. None of it waits for the engine."""

from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vprm_serving.http import service_of
from vprm_serving.metrics import CONTENT_TYPE
from vprm_serving.service import Service


async def healthz(request: Request) -> Response:
    """200 while the engine makes progress, 503 if it is stuck: then restart the process."""
    service = service_of(request)
    stalled = service.stalled()
    body = {
        "status": "stalled" if stalled else "ok",
        "reason": stalled,
        "block_age_s": round(max(scheduler.pulse.block_age_s() for scheduler in service.schedulers), 3),
        "blocks": sum(scheduler.pulse.blocks for scheduler in service.schedulers),
    }
    return JSONResponse(body, 503 if stalled else 200)


async def readyz(request: Request) -> Response:
    """200 if requests are welcome; 503 while loading and draining."""
    service = service_of(request)
    is_ready = service.is_ready and not service.is_draining and service.stalled() is None
    return JSONResponse({"ready": is_ready, "draining": service.is_draining}, 200 if is_ready else 503)


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE)


async def model(request: Request) -> Response:
    """What the server scores with, and its limits."""
    return JSONResponse(model_document(service_of(request)))


def model_document(service: Service) -> dict[str, Any]:
    """The model, its engine, its limits, and how full the server is."""
    manifest, limits = service.model.manifest, service.settings.limits
    return {
        "model": manifest.model.name,
        "vprm": version("vprm"),
        "engine": service.scorers[0].engine.description,
        "engines": len(service.scorers),
        "tiling": {
            "tile_size_px": manifest.tiling.tile_size_px,
            "max_tiles": manifest.tiling.max_tiles,
            "use_thumbnail": manifest.tiling.use_thumbnail,
        },
        "tokens_per_tile": manifest.model.tokens_per_tile,
        "max_positions_tokens": manifest.model.max_positions_tokens,
        "max_block_tokens": service.model.max_block_tokens,
        "step_joiner": manifest.score_rule.step_joiner,
        "limits": {
            "max_queue_tokens": limits.max_queue_tokens,
            "max_body_bytes": limits.max_body_bytes,
            "max_image_pixels": limits.max_image_pixels,
            "max_images": limits.max_images,
            "max_responses": limits.max_responses,
        },
        "queue": {
            "running": sum(scheduler.running for scheduler in service.schedulers),
            "waiting": sum(scheduler.waiting for scheduler in service.schedulers),
            "tokens": service.admission.tokens,
        },
        "cache": {
            "bytes": sum(scheduler.pulse.cache_bytes for scheduler in service.schedulers),
            "upload_bytes": service.uploads.size_bytes,
            "budget_bytes": service.settings.cache_bytes,
            "sessions": len(service.sessions),
        },
        "paths": service.settings.image_root is not None,
    }
