"""Native code in a process of its own, so that its crash fails one test by name and nothing else."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

_T = TypeVar("_T")
_SPAWN = multiprocessing.get_context("spawn")


class NativeCrashError(AssertionError):
    """The child process died in native code."""


class NativeChild:
    """Calls functions in one child process, which is started when first needed and again after a crash."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """What the importable `function` returns there; its exceptions are raised here.

        Raises NativeCrashError, with the signal's name, if the process dies.
        """
        if self._process is None or self._pipe is None:
            self._pipe, theirs = _SPAWN.Pipe()
            self._process = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._pipe.send((function, arguments))
            result, error = self._pipe.recv()
        except (EOFError, ConnectionError):
            code = self.close()
            how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            raise NativeCrashError(f"{function.__name__} died in native code: {how}") from None
        if error is not None:
            raise error
        value: _T = result
        return value

    def close(self) -> int | None:
        """End the process; its exit code, negative for a signal."""
        if self._process is None or self._pipe is None:
            return None
        self._pipe.close()
        self._process.join(10)
        code = self._process.exitcode
        self._process = self._pipe = None
        return code


def _serve(pipe: Connection) -> None:
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(*arguments), None))
        except Exception as error:  # noqa: BLE001 - raised again by the parent
            pipe.send((None, error))
