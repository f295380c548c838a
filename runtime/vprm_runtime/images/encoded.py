"""Images as text: base64 of an image file, or a data URL."""

import base64
import binascii

from vprm_runtime.errors import InputError

_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "Qk1", "Qk2", "Qk3", "SUkq", "TU0A")  # PNG, JPEG, GIF, ...
_MIN_CHARACTERS = 100  # a path may begin with /9j/ too, but no image is this small


def looks_encoded(text: str) -> bool:
    """Whether a text is an encoded image rather than a path."""
    return text.startswith("data:") or (len(text) >= _MIN_CHARACTERS and text.startswith(_STARTS))


def decoded_image(text: str) -> bytes:
    """The bytes of an encoded image. Raises InputError if it is not valid base64."""
    head, comma, body = text.partition(",") if text.startswith("data:") else ("", ",", text)
    if not comma or (head and not head.endswith(";base64")):
        raise InputError("a data URL of an image must be data:TYPE;base64,DATA: encode the image file's bytes again")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise InputError(f"an image is not valid base64 ({error}): encode the image file's bytes again") from error
