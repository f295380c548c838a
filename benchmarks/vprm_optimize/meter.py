"""What a stage took: time, processor time of this run and of other programs meanwhile, and memory."""

import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_EVERY_S = 0.1
_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_BUSY = (0, 1, 2, 5, 6)  # of a processor's line in /proc/stat: user, nice, system, irq, softirq


@dataclass(frozen=True)
class Usage:
    """Of a stage, in seconds and bytes.

    `cpu_s` is processor time of all threads, `others_cpu_s` that of other programs on the machine meanwhile: compare
    `seconds` with an estimate for an idle machine only if it is small. `memory_bytes` is the peak of memory that is the
    process's own, without mapped files: those stay on disk and are read as needed. None if the system does not say.
    """

    seconds: float
    cpu_s: float
    others_cpu_s: float | None
    memory_bytes: int | None


class Meter:
    """Measures what runs in a `with` block: this process and its children; memory of process `watched` (its own).

    `beat` is called ten times a second meanwhile, from a thread.
    """

    def __init__(self, beat: Callable[[], None] = lambda: None) -> None:
        self.watched, self._beat = os.getpid(), beat
        self._peak: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._began, self._cpu, self._busy = time.monotonic(), _own_cpu_s(), busy_s()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        cpu, busy = _own_cpu_s() - self._cpu, busy_s()
        others = None if busy is None or self._busy is None else max(0.0, busy - self._busy - cpu)
        self.usage = Usage(time.monotonic() - self._began, cpu, others, self._peak)

    def _watch(self) -> None:
        while True:
            found = own_memory_bytes(self.watched)
            if found is not None:
                self._peak = max(self._peak or 0, found)
            self._beat()
            if self._ended.wait(_EVERY_S):
                return


def own_memory_bytes(process: int) -> int | None:
    """Resident memory of a process that is not a mapped file's; None if it is gone or the system does not say."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(sizes) * 1024 if sizes else None


def busy_s() -> float | None:
    """Processor seconds that all programs took since the system started; None if it does not say."""
    try:
        fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    return sum(int(fields[at]) for at in _BUSY) * _TICK_S


def _own_cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
