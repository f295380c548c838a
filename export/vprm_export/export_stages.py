"""What the stages of an export share: errors that name the stage or file, and the folder that becomes the bundle."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vprm_runtime.errors import BundleError, CheckpointError, VprmError, quoted
from vprm_runtime.files import clear_leftovers, whole_folder

_ODD_VALUES = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Name the stage in errors of this package. While a checkpoint is read, its values may be of any kind."""
    try:
        yield
    except VprmError as error:
        error.add_note(f"(export stage: {name})")
        raise
    except _ODD_VALUES as error:
        if name != "read":
            raise
        why = quoted(f"{type(error).__name__}: {error}")
        raise CheckpointError(
            f"the checkpoint's files have a value of an unexpected kind ({why}): copy it again"
        ) from error


@contextmanager
def naming(file_name: str) -> Iterator[None]:
    """Put the file's name in an error of the disk: a failing write does not know it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or file_name
        raise


@contextmanager
def temporary_sibling(target: Path, size_bytes: int) -> Iterator[Path]:
    """A folder beside `target` that becomes it at the end. Disk errors become BundleErrors."""
    clear_leftovers(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(target.parent).free
        if free_bytes < size_bytes:
            raise BundleError(
                f"{target.parent} has {free_bytes:,} bytes free, the bundle needs {size_bytes:,}: make room"
            )
    except OSError as error:
        raise BundleError(f"cannot write beside {target} ({error.strerror}): choose another place") from error
    try:
        with whole_folder(target) as directory:
            yield directory
    except OSError as error:
        why = "the disk is full: make room" if error.errno == errno.ENOSPC else "check the disk and its permissions"
        raise BundleError(f"writing {error.filename or target} failed ({error.strerror}); {why}") from error
