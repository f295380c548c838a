"""Opening images the way the original does: RGB, no EXIF rotation, no alpha blending.

Images come from strangers. A short list of formats is read, told apart by content: none that starts a program (EPS
does) or refers to other files. Paths lead to regular files only. The size is read from the header and checked before a
pixel is decoded. Whatever a decoder raises is an InputError.
"""

import importlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from vprm_runtime.errors import InputError, quoted
from vprm_runtime.files import NotRegularError, open_regular
from vprm_runtime.images.encoded import looks_encoded
from vprm_runtime.images.libtiff import silence_libtiff


@dataclass(frozen=True)
class NamedImage:
    """The bytes of an image file, and what messages call it."""

    name: str
    content: bytes


ImageInput = str | Path | bytes | NamedImage | Image.Image | NDArray[np.uint8]

MAX_IMAGE_PIXELS = 178_956_970  # as the original's: Pillow refuses an image beyond twice its limit for a warning
MAX_EDGE_PX = 1 << 18  # resizing takes tile width x height first: 0.5 GB for the tallest, as decoding the largest
MAX_FILE_BYTES = 1 << 31  # an uncompressed image of that size with 16 bits per channel, twice
FORMATS = {
    "PNG": "Png", "JPEG": "Jpeg", "WEBP": "WebP", "GIF": "Gif", "BMP": "Bmp", "TIFF": "Tiff", "AVIF": "Avif",
    "PPM": "Ppm",
}  # fmt: skip
"""The formats that are read, and how Pillow's module and class for each begin."""

_MAGIC = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM"),
    "TIFF": re.compile(rb"II[*+]\x00|MM\x00[*+]"),
    "PPM": re.compile(rb"P[1-6]\s"),
    "AVIF": re.compile(rb"....ftyp(?:avif|avis|mif1|msf1)", re.DOTALL),
}
_MAGIC_BYTES = 12
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_RGB_FILES = (JpegImageFile, PngImageFile)  # whose pixels stay once they are loaded and the file is closed


def load_image(image: ImageInput, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decode to RGB. May run in several threads.

    Args:
        image: a path, the bytes of an image file, a Pillow image, or a uint8 array [H, W, 3].
        max_pixels: pixels at most; more are refused before they are decoded.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        InputError: it cannot be read or decoded, is of another format than FORMATS, has no area or too many pixels.
    """
    with _opened(image, max_pixels) as opened:
        return _to_rgb(opened)


def image_size(image: ImageInput, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """(width, height) in pixels, from the header alone. Arguments and errors as for `load_image`."""
    with _opened(image, max_pixels) as opened:
        return opened.size


def read_image_file(path: str | Path, name: str | None = None) -> NamedImage:
    """The content of an image file; errors call it `name` (default: its path).

    Raises InputError if it cannot be read or is no regular file.
    """
    name = quoted(path) if name is None else name
    with _errors_named(name), _open_file(path, name) as file:
        _check_format(file, name)
        return NamedImage(name, file.read(os.fstat(file.fileno()).st_size))


def check_no_url(name: str) -> None:
    """Raise InputError if a path is a URL or an encoded image: scoring opens local files only."""
    if _URL.match(name):
        raise InputError(f"{quoted(name)} is a URL: download the image and give the file's path, or its bytes")
    if looks_encoded(name):
        raise InputError(f"a path was expected, got an encoded image ({name[:20]} ...): decode it and give its bytes")


@contextmanager
def _opened(image: ImageInput, max_pixels: int) -> Iterator[Image.Image]:
    """The image with its size checked and, if it is a file, its pixels not yet decoded."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError(f"an image array must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        _check_size("image", image.shape[1], image.shape[0], max_pixels)
        yield Image.fromarray(image)
        return
    if not isinstance(image, str | Path | bytes | NamedImage | Image.Image):
        raise InputError(f"an image is a path, bytes, a Pillow image or a uint8 array, got {type(image).__name__}")
    name = "image"
    if isinstance(image, str | Path):
        check_no_url(str(image))
        name = quoted(image)
    elif isinstance(image, NamedImage):
        name = image.name
    with _errors_named(name):
        if isinstance(image, Image.Image):
            _check_size(name, image.width, image.height, max_pixels)
            _check_lazy(image)
            yield image
            return
        if isinstance(image, str | Path):
            file: IO[bytes] = _open_file(image, name)
        else:
            file = io.BytesIO(image if isinstance(image, bytes) else image.content)
        with file:
            opened = _parse(file, name)
            _check_size(name, opened.width, opened.height, max_pixels)
            yield opened


def _open_file(path: str | Path, name: str) -> io.BufferedReader:
    check_no_url(str(path))
    file = open_regular(path)
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE_BYTES:
        file.close()
        raise InputError(f"{name} has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read: convert it to PNG")
    return file


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Whatever goes wrong with a stranger's file becomes an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"no image file at {name}: check the path (rows: relative to the file, or --image-root)"
        ) from error
    except NotRegularError as error:
        raise InputError(f"{name} is {error.strerror}: name an image file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} has a frame of too many pixels: scale it down first") from error
    except MemoryError as error:
        raise InputError(f"{name} does not fit into memory: scale it down first") from error
    except Exception as error:  # decoders raise anything on damaged files
        why = quoted(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}")
        raise InputError(f"{name} cannot be decoded ({why}): the file is damaged or not readable") from error


def _check_format(file: IO[bytes], name: str) -> str:
    """Which of FORMATS a file's first bytes stand for; leaves the file at its start. Raises InputError for none."""
    start = file.read(_MAGIC_BYTES)
    file.seek(0)
    found = next((known for known, magic in _MAGIC.items() if magic.match(start)), None)
    if found is None:
        raise InputError(f"{name} is none of {', '.join(FORMATS)}, which are read: convert it to PNG or JPEG")
    return found


def _parse(file: IO[bytes], name: str) -> ImageFile:
    """The image's header, read by the class that its first bytes call for."""
    found = _check_format(file, name)
    module = importlib.import_module(f"PIL.{FORMATS[found]}ImagePlugin")
    if found == "TIFF":
        silence_libtiff()
    return cast(ImageFile, getattr(module, f"{FORMATS[found]}ImageFile")(file))


def _check_size(name: str, width_px: int, height_px: int, max_pixels: int) -> None:
    if width_px < 1 or height_px < 1:
        raise InputError(f"{name} has no area ({width_px} x {height_px} pixels)")
    if max(width_px, height_px) > MAX_EDGE_PX:
        raise InputError(
            f"{name} has {width_px:,} x {height_px:,} pixels, an edge longer than the {MAX_EDGE_PX:,} that are "
            "decoded: scale it down first, or cut it"
        )
    if width_px * height_px > max_pixels:
        raise InputError(
            f"{name} has {width_px:,} x {height_px:,} pixels, more than the {max_pixels:,} that are decoded: "
            "scale it down first, or raise max_image_pixels (--max-image-pixels)"
        )


def _check_lazy(image: Image.Image) -> None:
    """Refuse to decode an image that the caller has only opened, if it is of another format than those read here."""
    if image.format == "TIFF":
        silence_libtiff()
    if isinstance(image, ImageFile) and image.tile and image.format not in (*FORMATS, "MPO"):
        raise InputError(f"an image opened from {image.format} is not decoded here: call its load() first")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and (type(image) is Image.Image or isinstance(image, _RGB_FILES)):
        image.load()
        return image  # convert would copy every pixel
    if "transparency" in image.info:  # dropped, as in the original; Pillow would warn of it
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")
