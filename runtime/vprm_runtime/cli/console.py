"""What the command line shows: no text of strangers steers the terminal, in any encoding, with closed streams too."""

import contextlib
import errno
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_STEERING = re.compile(  # controls, other line ends, directions of writing, halves of surrogate pairs
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]"
)


def shown(text: str) -> str:
    """Text with what would steer a terminal escaped; line breaks and tabs stay."""
    return _STEERING.sub(lambda match: ascii(match[0])[1:-1], text)


class SafeConsole(Console):
    """A console that shows text as text: whatever is printed passes `shown`, styles and progress bars are its own."""

    def on_broken_pipe(self) -> None:
        """Called if nobody reads the output: the command ends by this error, see main.py."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's, each piece of text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


def stdout_console(**options: Any) -> Console:
    """For results."""
    return SafeConsole(emoji=False, markup=False, **options)


def stderr_console() -> Console:
    """For logs and progress."""
    return SafeConsole(stderr=True, emoji=False)


def print_stderr(line: str) -> None:
    """A line of plain text beside the results."""
    stderr_console().print(line, highlight=False, markup=False, soft_wrap=True)


def show_error(message: str) -> None:
    """The one line of a command that failed."""
    line = Text.assemble(("error:", "bold red"), " ", message)
    stderr_console().print(line, soft_wrap=True, highlight=False)


def print_json(document: object) -> None:
    """The one JSON document of a `--json` run, on stdout; in ASCII if stdout is not UTF-8."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    json.dump(document, sys.stdout, ensure_ascii=not is_utf8, indent=2, allow_nan=False)
    sys.stdout.write("\n")


class _LogHandler(logging.Handler):
    """Warnings of this package as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            stderr_console().print(Text(record.getMessage()), soft_wrap=True, highlight=False)


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Standard streams that are there and take any text, and warnings on stderr, for as long as a command runs.

    A closed stream becomes one whose use is an OSError with its name, and its number cannot become another file's.
    """
    _fill_closed()
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\."
    )  # of damaged files: what matters is an error
    warnings.filterwarnings(
        "ignore", category=Warning, message="Image size .* exceeds limit"
    )  # we have limits of our own
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    handler, logger = _LogHandler(logging.WARNING), logging.getLogger()
    is_ours = not logger.handlers
    if is_ours:
        logger.addHandler(handler)
    try:
        yield
    finally:
        if is_ours:
            logger.removeHandler(handler)


def closed_streams() -> list[str]:
    """Those of stdin and stdout that were closed when the command began: what stands for them is open the wrong way."""
    if sys.platform == "win32":
        return []
    import fcntl

    found = []
    for number, (name, flag) in enumerate((("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY))):
        with contextlib.suppress(OSError):
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == flag:
                found.append(name)
    return found


def stream_error(error: OSError | ValueError, name: str) -> str:
    """What to say of an error of the stream `name`, or of one whose name the error does not know."""
    closed = closed_streams()
    if getattr(error, "errno", None) == errno.EBADF and closed:
        are = "is" if len(closed) == 1 else "are"
        return f"{' and '.join(closed)} {are} closed, which this needs: leave out  >&-  or  <&-"
    return f"{name}: {getattr(error, 'strerror', None) or error}"


def _fill_closed() -> None:
    for number, (name, flags) in enumerate((("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        if getattr(sys, name) is not None:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        setattr(sys, name, _opened(number, name))


def _opened(number: int, name: str) -> IO[str]:
    mode = "r" if name == "stdin" else "w"
    return open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)
