"""Signals that end a command: SIGTERM unwinds the stack, so that temporary files go; Ctrl-C is never forgotten."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn


class _Terminated(BaseException):
    """SIGTERM came. No error: nothing but clean-up may catch it."""


class Interruption:
    """Whether Ctrl-C was pressed: libraries turn its exception into another, or swallow it."""

    def __init__(self) -> None:
        self.came = False

    def note(self, number: int, frame: object) -> NoReturn:
        """The handler."""
        self.came = True
        raise KeyboardInterrupt


INTERRUPTION = Interruption()


@contextlib.contextmanager
def handled_signals() -> Iterator[Interruption]:
    """Note Ctrl-C, and let SIGTERM unwind the stack before the process ends by it as if nothing had been done.

    Only in the main thread, and each only if it has Python's own handler: a shell starts what runs in the background
    with Ctrl-C ignored, and that stays so.
    """
    INTERRUPTION.came = False
    is_main = threading.current_thread() is threading.main_thread()
    notes_interrupt = is_main and signal.getsignal(signal.SIGINT) == signal.default_int_handler
    unwinds = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if notes_interrupt:
        signal.signal(signal.SIGINT, INTERRUPTION.note)
    if unwinds:
        signal.signal(signal.SIGTERM, _raise)
    try:
        yield INTERRUPTION
    except _Terminated:
        if not unwinds:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        if unwinds:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if notes_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _raise(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    raise _Terminated
