"""What callers hand over, as scoring takes it: lists of any kind, texts of any kind, images of any kind.

Frameworks bring arrays, columns and scalars of their own (NumPy, pandas, pyarrow, datasets). They are recognised by
what they can do, so none of these packages is needed.
"""

import io
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from PIL import Image

from vprm_runtime.errors import InputError
from vprm_runtime.images.encoded import decoded_image, image_in_object, is_nothing, looks_encoded
from vprm_runtime.images.load import ImageInput, load_image

_NOT_LISTS = (str, bytes, bytearray, memoryview, Mapping, set, frozenset)


def list_of(values: object, name: str) -> list[Any]:
    """The elements of a list, tuple, array, column or iterator, in order.

    Raises InputError if `values` is one text, a mapping, a set (which has no order) or no collection at all.
    """
    if isinstance(values, str):
        raise InputError(f"{name} must be a list, got one string: put it into a list")
    if hasattr(values, "columns"):  # a table: iterated over, it gives the names of its columns
        raise InputError(f"{name} must be a list, got a {type(values).__name__}: give one column of it")
    if hasattr(values, "to_pylist"):  # pyarrow
        values = values.to_pylist()
    if isinstance(values, _NOT_LISTS) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be a list, got {type(values).__name__}")
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise InputError(f"{name} must be a list, got an array without dimensions")
    return list(values)


def text_of(value: object) -> object:
    """A plain string for a text of NumPy or pyarrow; anything else as it is."""
    if hasattr(value, "as_py"):  # pyarrow's scalars
        value = value.as_py()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return str(value) if isinstance(value, str) else value


def response_of(value: object) -> object:
    """A response as scoring takes it: a string, or a list of steps. What cannot be one is left as it is."""
    value = text_of(value)
    if isinstance(value, _NOT_LISTS) or not isinstance(value, Iterable):
        return value
    return [text_of(step) for step in list_of(value, "a response")]


def images_of(images: object) -> list[ImageInput]:
    """The images of a question, in order: none for None, one for an image, all of a list or an array of images."""
    if is_nothing(images):
        return []
    if hasattr(images, "to_pylist"):
        images = images.to_pylist()
    is_list = isinstance(images, list | tuple) or (
        isinstance(images, np.ndarray) and images.ndim > 0 and (images.dtype.kind in "OU" or images.ndim == 4)
    )
    given = list(cast(Iterable[object], images)) if is_list else [images]
    return [_image(image) for image in given]


def plain_value(value: object) -> Any:
    """A record of a data frame or data set with plain Python values in it, as JSON or parquet readers give them.

    Arrays and columns become lists, scalars numbers and texts, decoded images the bytes of a file with their pixels,
    and pandas' NA and NaT None.
    """
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain_value(part) for key, part in value.items()}
    if isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim > 1):
        stream = io.BytesIO()
        load_image(_image(value)).save(stream, "BMP")  # lossless, and fast
        return stream.getvalue()
    if hasattr(value, "as_py"):
        return plain_value(value.as_py())
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if hasattr(value, "to_pylist"):
        return plain_value(value.to_pylist())
    if isinstance(value, np.ndarray) or (hasattr(value, "tolist") and not isinstance(value, memoryview)):
        return plain_value(value.tolist())
    return [plain_value(part) for part in value] if isinstance(value, list | tuple) else value


def _image(image: object) -> ImageInput:
    """One image: objects with bytes or path, encoded texts, buffers and open files become bytes or a path."""
    if hasattr(image, "as_py"):
        image = image.as_py()
    if isinstance(image, Mapping):  # how Hugging Face data sets and chat messages hold an image
        image = image_in_object(image)
    if isinstance(image, str):
        text = str(image)
        return decoded_image(text) if looks_encoded(text) else text
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray) and image.ndim == 0 and image.dtype.kind == "U":
        return _image(image.item())
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and _has_channels(image.shape):
        return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    if hasattr(image, "read") and not isinstance(image, Image.Image):
        content = image.read()
        if isinstance(content, bytes):
            return content
    return cast(ImageInput, image)  # `load_image` says what an image is


def _has_channels(shape: tuple[int, ...]) -> bool:
    """Whether an array is grey [H, W], [H, W, 1] or has an alpha channel [H, W, 4]."""
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 4)))
