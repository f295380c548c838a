"""Images as text, base64 of an image file or a data URL, and images inside objects."""

import base64
from collections.abc import Mapping

from vprm_runtime.errors import InputError, quoted

_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "Qk1", "Qk2", "Qk3", "SUkq", "TU0A")  # PNG, JPEG, GIF, ...
_MIN_CHARACTERS = 100  # a path may begin with /9j/ too, but no image is this small


def looks_encoded(text: str) -> bool:
    """Whether a text is an encoded image rather than a path."""
    return _is_data_url(text) or (len(text) >= _MIN_CHARACTERS and text.startswith(_STARTS))


def decoded_image(text: str) -> bytes:
    """The bytes of an encoded image. Raises InputError if it is not valid base64."""
    head, comma, body = text.partition(",") if _is_data_url(text) else ("", ",", text)
    if not comma or (head and not head.lower().endswith(";base64")):
        raise InputError("a data URL of an image must be data:TYPE;base64,DATA: encode the image file's bytes again")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:  # binascii's, and one for text that is not ASCII
        raise InputError(f"an image is not valid base64 ({error}): encode the image file's bytes again") from error


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"  # a URL's scheme may be in capitals


_OBJECT_KEYS = (  # of data sets' columns, and of parts of chat messages, which nest them
    "bytes", "path", "url", "image_url", "image", "base64", "b64_json", "data", "source", "file_path", "file_name",
)  # fmt: skip
_MAX_NESTING = 4


def image_in_object(value: Mapping[str, object]) -> object:
    """What an object holds as its image: bytes before a path. Raises InputError if nothing stands under a known key."""
    inner: object = value
    for _ in range(_MAX_NESTING):
        if not isinstance(inner, Mapping):
            return inner
        found = [inner[key] for key in _OBJECT_KEYS if not is_nothing(inner.get(key))]
        if not found:
            keys = quoted(", ".join(map(str, inner)), 100)
            raise InputError(f"an image object must have bytes, path or url, got one with the keys {keys}")
        inner = found[0]
    raise InputError("an image object is nested too deeply: give the bytes, the path or the data URL itself")


def is_nothing(value: object) -> bool:
    """None, "", and NaN as pandas writes a missing value."""
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value)
