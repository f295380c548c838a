"""The tokenizers library panics on damaged files: an exception that is no Exception, and lines on stderr before it."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_PANIC = re.compile(rb"(?m)^(thread '.*' (\(\d+\) )?panicked at .*\n(.*\n)?|note: run with `RUST_BACKTRACE.*\n|\n)")


class PanicError(Exception):
    """The library panicked. Its message."""


@contextlib.contextmanager
def caught_panics() -> Iterator[None]:
    """A panic becomes a PanicError, and its lines do not reach stderr; what else is written there does."""
    with _stderr_kept() as lines:
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            lines.pattern = _PANIC
            raise PanicError(str(error)) from error


class _Lines:
    """What is not to be written."""

    pattern: re.Pattern[bytes] | None = None


@contextlib.contextmanager
def _stderr_kept() -> Iterator[_Lines]:
    """Keep what is written to the process's stderr until the end; then write it, but for what `pattern` matches."""
    lines = _Lines()
    try:
        stderr, file = os.dup(2), tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  it is closed below
    except OSError:  # stderr is closed, or there is nowhere to keep it
        yield lines
        return
    with file as kept:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept.fileno(), 2)
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            written = kept.read()
            if lines.pattern is not None:
                written = lines.pattern.sub(b"", written)
            with contextlib.suppress(OSError):
                os.write(2, written)
