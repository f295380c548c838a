"""TEXT or @FILE: an argument that is a text, or the name of a file that holds it."""

import os
import re

from vprm_runtime.errors import InputError

_MAX_BYTES = 1 << 26


def text_argument(value: str | None, what: str) -> str | None:
    """TEXT, UTF-8 in every locale, or the content of FILE for @FILE without what editors add: a byte order mark, one
    final newline.

    Raises InputError if the file cannot be read, or it or the text is not UTF-8; `what` names the argument in the
    message.
    """
    if value is None:
        return None
    if not value.startswith("@"):
        return _utf8(value, what)
    try:
        with open(value[1:], "rb") as file:  # a pipe is fine, one without end is not
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise InputError(f"the {what} in {value[1:]} has more than {_MAX_BYTES:,} bytes: name a file of text")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"cannot read the {what} from {value[1:]}: it is not UTF-8 ({error.reason}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read the {what} from {value[1:]}: {error.strerror}: check the path") from error
    text = text.replace("\r\n", "\n")
    return text.removesuffix("\n")


def _utf8(value: str, what: str) -> str:
    """An argument that Python read in another encoding than UTF-8, as it does for LC_ALL=C."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        try:
            return os.fsencode(value).decode("utf-8")
        except UnicodeError as error:
            raise InputError(f"the {what} is not UTF-8: write it as UTF-8") from error
    return value


def step_separator(value: str | None) -> str | None:
    r"""A separator as a shell gives it: \n, \r, \t and \\ are what they stand for in other languages."""
    if value is None:
        return None
    if not value:
        raise InputError("--step-separator is empty: give the text between two steps, such as '\\n'")
    stands_for = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\"}
    value = _utf8(value, "step separator")
    return re.sub(r"\\[nrt\\]", lambda found: stands_for[found[0]], value)
