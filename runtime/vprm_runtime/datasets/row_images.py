"""The images of a record: under which keys they are looked for, in which forms, and what is refused by name.

A row whose images are not found would be scored from its text alone and look plausible, so a key that looks like an
image and is not read is an error, never ignored.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vprm_runtime.errors import InputError, quoted
from vprm_runtime.images.encoded import decoded_image, image_in_object, looks_encoded
from vprm_runtime.images.load import NamedImage, check_no_url

Record = Mapping[str, Any]
RowImage = Path | bytes | NamedImage

_NOUN = r"(?:input_?)?(?:image|img|picture|pic|photo)s?"
_FORM = r"(?:_?(?:path|file|filename|file_?name|url|uri|bytes|base64|b64|data|list))?s?"
_WHOLE = re.compile(f"{_NOUN}{_FORM}")
_NUMBERED = re.compile(rf"{_NOUN}{_FORM}_?(\d+)")
_DECODED = "decoded_image"  # MathVista, MathVision: the image itself, beside its path under `image`
_SUGGESTIVE = re.compile(
    r"(?:^|_)(?:image|img|picture|pic|photo|screenshot|figure|diagram|chart|pixel|visual)s?(?:_?\d+)?(?:_|$)"
)
_ABOUT = re.compile(  # keys that say something about an image
    r"_(?:ids?|types?|size|width|height|w|h|count|num|number|sources?|caption|captions|description|ocr|hash|md5|sha\d*|format|"
    r"mode|index|idx|categor(?:y|ies)|class|tags?|alt|title|license|credit|tokens?|captions?|dataset|name_list)$"
    r"|^(?:num|n|has|is|no|with|total)_"
)
_IMAGE_NAME = re.compile(r"[^\n\r]{1,1000}\.(?:png|jpe?g|jfif|webp|gif|bmp|tiff?|avif|heic|heif|svg)", re.IGNORECASE)
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
_FORMS = "a path, bytes, base64 text, a data URL or an object with bytes or path"


def is_image_key(key: str) -> bool:
    """Whether images are read from a key of this name."""
    name = _snake(key)
    return name == _DECODED or _WHOLE.fullmatch(name) is not None or _NUMBERED.fullmatch(name) is not None


def images_of(record: Record, image_root: Path, text_keys: frozenset[str]) -> tuple[RowImage, ...]:
    """The record's images in order; relative paths start at `image_root`. Empty if the row is text only.

    `text_keys` are the keys that hold texts and labels. Raises InputError if images stand under several keys, in a
    form that is not known, or under a key that looks like an image and is not read.
    """
    return tuple(_image(item, image_root) for item in image_values(record, text_keys))


def image_values(record: Record, text_keys: frozenset[str]) -> list[Any]:
    """What stands for the record's images, in order, as it has them. Arguments and errors as of `images_of`."""
    found = _by_key(record)
    if len(found) > 1:
        found = _one_of(found)
    for key, value in record.items():
        if key not in text_keys and not is_image_key(str(key)):
            _check_no_image(str(key), value, bool(found))
    return [item for items in found.values() for item in items]


def _by_key(record: Record) -> dict[str, list[Any]]:
    """Images by key; numbered keys, in the order of their numbers, count as one. Empty values are none."""
    found: dict[str, list[Any]] = {}
    numbered: dict[int, tuple[str, list[Any]]] = {}
    for key, value in record.items():
        name = _snake(str(key))
        items = [item for item in _items(value) if not is_empty(item)]
        if not items:
            continue
        if match := _NUMBERED.fullmatch(name):
            if int(match[1]) in numbered:
                raise InputError(f"images stand under {numbered[int(match[1])][0]} and {key}: keep one of them")
            numbered[int(match[1])] = (str(key), items)
        elif is_image_key(str(key)):
            found[str(key)] = items
    if numbered:
        first = numbered[min(numbered)][0]
        found[first] = [item for _, (_, items) in sorted(numbered.items()) for item in items]
    return found


def _one_of(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Of several keys with images: all the same, or the decoded image beside its path. Raises InputError else."""
    decoded = {key: items for key, items in found.items() if _snake(key) == _DECODED}
    others = [items for key, items in found.items() if key not in decoded]
    if others and len(decoded) < 2 and all(items == others[0] for items in others):
        kept = decoded or {next(iter(found)): others[0]}
        if len(others[0]) == len(next(iter(kept.values()))):
            return kept
    raise InputError(
        f"images stand under {quoted(' and '.join(found))}, and differ: keep the one that the question is about"
    )


def _items(value: object) -> Sequence[Any]:
    single = isinstance(value, str | bytes | bytearray | memoryview | Mapping) or not isinstance(value, Sequence)
    return [value] if single else value  # type: ignore[return-value]


def is_empty(value: object) -> bool:
    """None, "", NaN (a missing value of pandas), an empty list, and an object with nothing in it."""
    if isinstance(value, Mapping):
        return all(is_empty(part) for part in value.values())
    return value is None or (isinstance(value, str | list | tuple) and not value) or _is_missing_number(value)


def _is_missing_number(value: object) -> bool:
    try:
        return bool(value != value)
    except (TypeError, ArithmeticError):  # pandas.NA, a signalling NaN of decimal
        return True
    except ValueError:  # an array
        return False


def _check_no_image(key: str, value: object, has_images: bool) -> None:
    """Refuse a key that is not read and holds an image; without any image, one that seems to name one, too."""
    items = [item for item in _items(value) if not is_empty(item)]
    if not items:
        return
    holds = any(_holds_image(item) for item in items)
    names = any(_names_image(item) or _nests_image(item) for item in items)
    name = _snake(key)
    texts = any(isinstance(item, str | Mapping) for item in items)
    suggests = texts and _SUGGESTIVE.search(name) is not None and _ABOUT.search(name) is None
    if holds or (not has_images and (names or suggests)):
        raise InputError(
            f"{quoted(key, 60)} looks like an image, and images are read from image, images, image_path, image_1 "
            "and their like: rename the key to image, or leave it out if it is not what the question is about"
        )


def _holds_image(value: object) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes | bytearray | memoryview | str) and bool(value["bytes"])
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[:4]).startswith(_MAGIC)
    return isinstance(value, str) and looks_encoded(value)


def _names_image(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_names_image(value.get(key)) for key in ("path", "url"))
    return isinstance(value, str) and _IMAGE_NAME.fullmatch(value.partition("?")[0].strip()) is not None


def _nests_image(value: object) -> bool:
    """Whether an object holds an image under a key of its own, at any depth: chat messages, vLLM's multi_modal_data."""
    if isinstance(value, Mapping):
        own = any(is_image_key(str(key)) and not is_empty(part) and _items(part) for key, part in value.items())
        return own or any(_nests_image(part) for part in value.values())
    return isinstance(value, list | tuple) and any(_nests_image(part) for part in value)


def _image(value: object, image_root: Path) -> RowImage:
    if isinstance(value, Mapping):  # how Hugging Face data sets and chat messages hold an image
        value = image_in_object(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise InputError(f"an image must be {_FORMS}, got {type(value).__name__}; leave image out for text only")
    if looks_encoded(value):
        return decoded_image(value)
    check_no_url(value)  # here: a path keeps only one of the slashes
    _check_not_doubled(image_root, value)
    return image_root / value


def _check_not_doubled(image_root: Path, value: str) -> None:
    """Raise InputError if the root ends with the folder that the path begins with, and the image is in its parent."""
    first = value.replace("\\", "/").partition("/")[0]
    is_plain = ".." not in Path(value).parts  # no word of files elsewhere
    if first and first == image_root.name and is_plain and not os.path.exists(image_root / value):
        parent = image_root.parent
        if os.path.isfile(parent / value):  # Path's own raises OSError if a name is too long
            raise InputError(
                f"no image file at {quoted(image_root / value)}: the path begins with {first}/ itself, so the image "
                f"root is the folder above: --image-root {parent}"
            )


def _snake(key: str) -> str:
    """imagePath, Image-Path and IMAGE_PATH as image_path."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower().replace("-", "_").replace(" ", "_")


_COUNTS = re.compile(
    r"(?:has|with|num|n|number_of|total|count_of)_(?:image|img|picture|photo)s?|"
    r"(?:image|img|picture|photo)s?_(?:count|num|number)"
)
_NONE = (0, "0", "false", "no", "none")  # False is 0
_DESCRIBES = re.compile(r"(?:image|img|picture|photo)s?_(?:ids?|idx|index|hash|md5|sha\d*|width|height|size|w|h)")


def check_no_image_stated(record: Record) -> None:
    """Raise InputError if a record without an image says under another key that it has one: it was lost on the way."""
    for key, value in record.items():
        name, items = _snake(str(key)), [item for item in _items(value) if not is_empty(item) and item != -1]
        counts = [item.lower() if isinstance(item, str) else item for item in items]
        if (_COUNTS.fullmatch(name) and any(item not in _NONE for item in counts)) or (
            _DESCRIBES.fullmatch(name) and items
        ):
            raise InputError(
                f"{quoted(key, 60)} says that there is an image, and the row has none: give it as image, or leave "
                f"{quoted(key, 60)} out if the text alone is meant"
            )
