"""Signals that end a command: SIGTERM and SIGHUP unwind the stack, so that temporary files go; Ctrl-C is noted."""

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class _Terminated(BaseException):
    """A signal that ends processes came. No error: nothing but clean-up may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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
    """Note Ctrl-C; let SIGTERM and SIGHUP unwind the stack before the process ends by them as if nothing were done.

    Only in the main thread, and each only if it has Python's own handler: a shell starts what runs in the background
    with Ctrl-C ignored, nohup with SIGHUP, and that stays so.
    """
    INTERRUPTION.came = False
    is_main = threading.current_thread() is threading.main_thread()
    notes_interrupt = is_main and signal.getsignal(signal.SIGINT) == signal.default_int_handler
    ending = [number for number in _ENDING if is_main and signal.getsignal(number) == signal.SIG_DFL]
    if notes_interrupt:
        signal.signal(signal.SIGINT, INTERRUPTION.note)
    for number in ending:
        signal.signal(number, _raise)
    came: int | None = None
    try:
        yield INTERRUPTION
    except _Terminated as terminated:
        if terminated.number not in ending:
            raise
        came = terminated.number
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
        if notes_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if came is not None:
        atexit._run_exitfuncs()  # temporary files of objects that are still alive
        os.kill(os.getpid(), came)


def _raise(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    raise _Terminated(number)
