"""Names of models: what people call them, never a commit of the hub's."""

import os
import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,100})?")
"""OWNER/NAME of a model on the hub, or OWNER/NAME@REVISION."""


def hub_id(path: Path) -> str | None:
    """The model's id, for a folder of the hub's cache (models--OWNER--NAME/snapshots/COMMIT)."""
    for place in (path.absolute(), path.resolve()):
        repository = place.parent.parent.name
        if place.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.removeprefix("models--").replace("--", "/")
    return None


def model_name(path: Path) -> str:
    """What the model in a folder is called: its id on the hub if it lies in the hub's cache, else the folder's name."""
    return hub_id(path) or path_text(path.resolve().name)


def path_text(path: str | Path) -> str:
    """A path as text for files in UTF-8 and libraries that take names in it, whatever the locale is.

    Bytes that are no UTF-8 are escaped.
    """
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    return text
