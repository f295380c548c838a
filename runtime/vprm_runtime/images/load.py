"""Opening images the way the original does: RGB, no EXIF rotation, no alpha blending."""

import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from vprm_runtime.errors import InputError

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8]

MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own warning limit: a quarter of a GiB of RGB

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_RGB_FILES = (JpegImageFile, PngImageFile)  # whose pixels stay once they are loaded and the file is closed


def load_image(image: ImageInput) -> Image.Image:
    """Decode to RGB.

    Takes a path, the bytes of an image file, a Pillow image, or a uint8 array [H, W, 3]. May run in several threads.
    Raises InputError where it cannot be read, has no area, or has more than MAX_IMAGE_PIXELS pixels.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(f"an image array must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        return Image.fromarray(image)
    if not isinstance(image, str | Path | bytes | Image.Image):
        raise InputError(f"an image is a path, bytes, a Pillow image or a uint8 array, got {type(image).__name__}")
    name = str(image) if isinstance(image, str | Path) else "image"
    check_no_url(name)
    try:
        if isinstance(image, Image.Image):
            return _to_rgb(image)
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return _to_rgb(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} has more than {MAX_IMAGE_PIXELS:,} pixels: scale it down first") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image that Pillow can read: convert it to PNG or JPEG") from error
    except FileNotFoundError as error:
        raise InputError(
            f"no image file at {name}: check the path (rows: relative to the file, or --image-root)"
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"{name} is a directory: name an image file in it") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damaged files
        raise InputError(f"{name} cannot be decoded ({error}): the file is damaged or not readable") from error


def check_no_url(name: str) -> None:
    """Raise InputError where a path is a URL: scoring opens local files only."""
    if _URL.match(name):
        raise InputError(f"{name} is a URL: download the image and give the file's path, or its bytes")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    if image.mode == "RGB" and (type(image) is Image.Image or isinstance(image, _RGB_FILES)):
        image.load()
        return image  # convert would copy every pixel
    if "transparency" in image.info:  # dropped, as in the original; Pillow would warn of it
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")
