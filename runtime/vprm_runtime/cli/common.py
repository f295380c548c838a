"""What subcommands share: the default bundle, output discipline (JSON on stdout, everything else on stderr)."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vprm_runtime.bundle.bundle import is_checkpoint
from vprm_runtime.demo import demo_hook
from vprm_runtime.errors import InputError, MissingExtraError

NOTHING_SCORED = 3  # exit code: rows or responses were read and not one could be scored
Subparsers = Any  # argparse's own type is private
DEVICE_HELP = "auto, cpu, openvino, cuda, tensorrt or tensorrt-rtx; cuda:1 is the second GPU (default: auto)"


def stderr_console() -> Console:
    """For logs and progress."""
    return Console(stderr=True, emoji=False)


def print_json(document: object) -> None:
    """The one JSON document of a `--json` run, on stdout."""
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def resolve_bundle(bundle: Path | None) -> Path:
    """The named bundle, or the demo PRM's, exported once into the user's cache directory."""
    if bundle is not None:
        return bundle
    path: Path = demo_hook("bundle")()
    return path


@contextmanager
def byte_progress(label: str) -> Iterator[Any]:
    """A progress bar on stderr; yields a function of (bytes done, bytes in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr_console(), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class RowBar:
    """Progress over rows on stderr: rate, time left, errors. A context manager."""

    def __init__(self, label: str) -> None:
        columns = (
            TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), TextColumn("{task.fields[errors]} errors"),
        )  # fmt: skip
        self._bar = Progress(*columns, console=stderr_console(), transient=True)
        self._task = self._bar.add_task("", total=None, errors=0, rate="")

    def advance(self, done: int, total: int | None, errors: int) -> None:
        """Show that so many rows are done."""
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.1f} rows/s" if speed else ""
        self._bar.update(self._task, completed=done, total=total, errors=errors, rate=rate)

    def __enter__(self) -> "RowBar":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()


def optimised_bundle(checkpoint: Path | None) -> Path | None:
    """The best bundle of a checkpoint, made once into the cache folder; a bundle, or None, as it is.

    Raises MissingExtraError if what makes it is not installed.
    """
    if checkpoint is None or not is_checkpoint(checkpoint):
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


def check_output_file(path: Path | None) -> None:
    """Fail before the work, not after it: raise InputError where no file can be written at `path`."""
    if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise InputError(f"{path} cannot be written: name a file in a folder that exists and may be written to")


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return value
