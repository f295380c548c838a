"""/v1/images: send a file once, refer to it as blake2b:DIGEST in any number of rows."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vprm_runtime.images.load import NamedImage, image_size
from vprm_serving.admission import Place
from vprm_serving.http import read_body, service_of
from vprm_serving.uploads import SCHEME


async def put(request: Request, place: Place) -> Response:
    """Keep an image file under its digest. Its header must be readable; pixels are decoded when it is scored."""
    service = service_of(request)
    digest = request.path_params["digest"]
    content = await read_body(request, place)
    size = await service.in_thread(
        image_size, NamedImage("the upload", content), service.settings.limits.max_image_pixels
    )
    is_new = await service.in_thread(service.uploads.put, digest, content)
    for scheduler in service.schedulers:
        scheduler.wake()  # kept prefixes may have to make room
    body = {"image": f"{SCHEME}{digest.lower()}", "bytes": len(content), "width": size[0], "height": size[1]}
    return JSONResponse(body, 201 if is_new else 200)


async def head(request: Request, place: Place) -> Response:
    """200 if the image is here (it counts as used), 404 if not."""
    content = service_of(request).uploads.get(request.path_params["digest"])
    return Response(headers={"x-vprm-bytes": str(len(content))})
