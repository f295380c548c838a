"""Signs of life on stderr: bars on a terminal; elsewhere (a log, a job queue) a line every 30 seconds.

A line says what is done, the rate, the time left and the errors, whether or not anything was finished since the last.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from vprm_runtime.cli.console import print_stderr, stderr_console

LINE_INTERVAL_S = 30.0
_SCALES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


class Display:
    """Progress of one piece of work after the other, each in its `unit` ("bytes": shown as sizes). A context manager.

    Threads may share it. `interval_s` is the time between lines if stderr is no terminal.
    """

    def __init__(self, unit: str, interval_s: float = LINE_INTERVAL_S) -> None:
        self._unit, self._interval_s = unit, interval_s
        self._label, self._doing, self._done = "", "", 0
        self._total: int | None = None
        self._errors: int | None = None
        self._began_s, self._first = time.monotonic(), 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: Progress | None = None
        self._task: Any = None

    def update(
        self,
        label: str,
        done: int,
        total: int | None,
        errors: int | None = None,
        doing: str = "",
        unit: str | None = None,
    ) -> None:
        """So much is done of the work that `label` names; another label than before begins anew.

        `doing` is what goes on right now. Without any figures, a line has the time since the work began. `unit` is
        what this work is counted in (None: as before).
        """
        if label != self._label or done < self._done or total != self._total:
            self._began_s, self._first = time.monotonic(), done
            self._task = None
        self._label, self._doing, self._done, self._total, self._errors = label, doing, done, total, errors
        self._unit = unit or self._unit
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(label, total=total, note="")
            shown = f"{label}: {doing}" if doing else label
            self._bar.update(
                self._task, description=shown, completed=done, total=total, note=self._note(with_time=False)
            )

    def line(self) -> str:
        """The present state in words."""
        if self._doing and self._total is None:
            return f"{self._label}: {self._doing}, {_duration(time.monotonic() - self._began_s)} so far"
        of = f" of {self._amount(self._total)}" if self._total is not None else ""
        doing = f" ({self._doing})" if self._doing else ""
        return f"{self._label}: {self._amount(self._done)}{of}{self._unit_name()}{doing}{self._note(with_time=True)}"

    def __enter__(self) -> Self:
        console = stderr_console()
        if console.is_terminal:
            columns: tuple[ProgressColumn, ...] = (
                TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )  # fmt: skip
            self._bar = Progress(*columns, console=console, transient=True, redirect_stdout=False)
            self._bar.start()
        else:
            self._thread = threading.Thread(target=self._print_lines, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.stop()
        if self._thread is not None:
            self._thread.join()

    def _print_lines(self) -> None:
        while not self._ended.wait(self._interval_s):
            if self._label:
                print_stderr(self.line())

    def _note(self, with_time: bool) -> str:
        passed_s, new = time.monotonic() - self._began_s, self._done - self._first
        rate = new / passed_s if passed_s > 0 else 0.0
        parts = [f"{self._done} of {self._total}"] if not with_time and self._total and self._unit != "bytes" else []
        if rate > 0:
            parts.append(f"{self._amount(rate)}{self._unit_name()}/s")
            if with_time and self._total is not None:
                parts.append(f"{_duration((self._total - self._done) / rate)} left")
        if self._errors is not None:
            parts.append(f"{self._errors} errors")
        return (", " if with_time and parts else "") + ", ".join(parts)

    def _unit_name(self) -> str:
        return "" if self._unit == "bytes" else f" {self._unit}"

    def _amount(self, value: float) -> str:
        if self._unit == "bytes":
            name, scale = next((item for item in _SCALES if value >= item[1]), ("bytes", 1.0))
            return f"{value / scale:.1f} {name}" if scale > 1 else f"{int(value)} bytes"
        return f"{value:,}" if isinstance(value, int) else f"{value:.2g}" if value < 1 else f"{value:,.1f}"


class RowBar:
    """Progress over rows: rate, time left, errors. A context manager."""

    def __init__(self, label: str) -> None:
        self._label, self._display = label, Display("rows")

    def advance(self, done: int, total: int | None, errors: int = 0) -> None:
        """Show that so many rows are done."""
        self._display.update(self._label, done, total, errors)

    def __enter__(self) -> Self:
        self._display.__enter__()
        self._display.update(self._label, 0, None, 0)
        return self

    def __exit__(self, *exception: object) -> None:
        self._display.__exit__()


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yields a function of (bytes done, bytes in all)."""
    with Display("bytes") as display:
        display.update(label, 0, None)
        yield lambda done, total: display.update(label, done, total)


class Phases(Protocol):
    """Says how much of a phase is done, and what it is counted in."""

    def __call__(self, phase: str, done: int, total: int | None, unit: str = "steps") -> None:
        """Show it."""
        ...


@contextmanager
def phase_progress(label: str) -> Iterator[Phases]:
    """Yields what shows phases; before its first call, work of unknown size that `label` names."""
    with Display("steps") as display:

        def show(phase: str, done: int, total: int | None, unit: str = "steps") -> None:
            display.update(phase, done, total, unit=unit)

        display.update(label, 0, None)
        yield show


class Say(Protocol):
    """Says what goes on, and how much of it is done if that is known."""

    def __call__(self, text: str, done: int = 0, total: int | None = None) -> None:
        """Show it."""
        ...


def say_nothing(text: str, done: int = 0, total: int | None = None) -> None:
    """A `Say` for those who want none."""


@contextmanager
def activity(label: str, unit: str = "calls") -> Iterator[Say]:
    """Signs of life of the work that `label` names, in steps of other kinds; yields what says which goes on."""
    with Display(unit) as display:

        def say(text: str, done: int = 0, total: int | None = None) -> None:
            display.update(label, done, total, doing=text)

        say("starting")
        yield say


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
