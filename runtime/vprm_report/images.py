"""An image as it goes into a page: small JPEG data URI, with the grid that tiling cuts it into."""

from __future__ import annotations

import base64
import io

from PIL import Image

from vprm_report.page import PageImage
from vprm_runtime.bundle.manifest import TilingInfo
from vprm_runtime.images.load import ImageInput, load_image
from vprm_runtime.images.tiling import tile_grid

MAX_SIDE_PX = 640
JPEG_QUALITY = 82


def page_image(image: ImageInput, tiling: TilingInfo) -> PageImage:
    """The image, scaled to at most MAX_SIDE_PX a side. Raises InputError if it cannot be read."""
    opened = load_image(image)
    width_px, height_px = opened.size
    columns, rows = tile_grid(width_px, height_px, tiling)
    thumbnail = " and a thumbnail" if tiling.use_thumbnail and columns * rows > 1 else ""
    tiles = "1 tile" if columns * rows == 1 else f"{columns} × {rows} tiles{thumbnail}"
    shown = opened.copy()
    shown.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return PageImage(uri, *shown.size, columns, rows, f"{width_px} × {height_px} px, {tiles}")
