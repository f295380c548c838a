"""What subcommands share: the default bundle, output discipline (JSON on stdout, everything else on stderr)."""

import argparse
import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vprm_runtime.bundle.bundle import Bundle, is_checkpoint
from vprm_runtime.bundle.names import HUB_ID
from vprm_runtime.cli.console import print_json as print_json
from vprm_runtime.cli.console import print_stderr as print_stderr
from vprm_runtime.cli.console import stderr_console as stderr_console
from vprm_runtime.cli.console import stdout_console as stdout_console
from vprm_runtime.cli.progress import RowBar as RowBar
from vprm_runtime.cli.progress import activity as activity
from vprm_runtime.cli.progress import byte_progress as byte_progress
from vprm_runtime.cli.progress import phase_progress as phase_progress
from vprm_runtime.demo import demo_hook
from vprm_runtime.errors import InputError, MissingExtraError, quoted

NOTHING_SCORED = 3  # exit code: rows or responses were read and not one could be scored
_MAX_INT = (1 << 31) - 1
Subparsers = Any  # argparse's own type is private


def resolve_bundle(bundle: Path | None) -> Path:
    """The named bundle, or the demo PRM's, exported once into the user's cache directory."""
    if bundle is not None:
        return bundle
    path: Path = demo_hook("bundle")()
    return path


def opened_bundle(bundle: Path | None, verify: bool) -> Bundle:
    """The named bundle or the demo PRM's, opened; with `verify`, every hash is checked, and how far is shown."""
    opened = Bundle.open(resolve_bundle(bundle))
    if verify:
        with byte_progress("checking") as checked:
            opened.verify(checked)
    return opened


def optimised_bundle(checkpoint: Path | None) -> Path | None:
    """The best bundle of a checkpoint or of a model's id, made once into the cache folder; a bundle or None as it is.

    Raises MissingExtraError if what makes it is not installed.
    """
    if checkpoint is None or not (is_checkpoint(checkpoint) or _is_hub_id(checkpoint)):
        return checkpoint
    for hook in entry_points(group="vprm.optimize", name="bundle"):
        try:
            make: Callable[[Path], Path] = hook.load()
            return make(checkpoint)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0].startswith("vprm_"):
                raise
            raise MissingExtraError("vprm score --optimize", "optimize") from error
    raise MissingExtraError("vprm score --optimize", "optimize")


def _is_hub_id(path: Path) -> bool:
    return not path.exists() and HUB_ID.fullmatch(str(path)) is not None


def check_output_file(path: Path | None) -> None:
    """Fail before the work, not after it: raise InputError if no file can be written at `path`."""
    if path is not None and ((path.exists() and not path.is_file()) or not os.access(path.parent, os.W_OK)):
        raise InputError(f"{path} cannot be written: name a file in a folder that exists and may be written to")


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= _MAX_INT:
        raise argparse.ArgumentTypeError(f"{quoted(repr(text))} is not an integer of at least 1 and below 2^31")
    return value
