"""Workers as processes of this machine. A process that dies is replaced."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from vprm_runtime.datasets.shard_runner import ScorerSettings, ShardTask, WorkerEvent, event_from_json
from vprm_runtime.datasets.shard_worker import STOP, process_arguments, task_line

_WAIT_S = 0.5


class _Process:
    """A worker's process and what it has written of its next event."""

    def __init__(self, settings: ScorerSettings) -> None:
        self.partial = b""
        self.has_ended = False  # it said why it ends
        with _interrupts_held():
            self.popen = subprocess.Popen(
                [sys.executable, *process_arguments(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )

    def end(self) -> None:
        """End the process now, in an orderly way if it can."""
        self.tell_to_stop()
        try:
            self.popen.wait(5)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.pipes[1].close()

    def tell_to_stop(self) -> None:
        """The process is to end, and no row is to blame."""
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was told before
            self.pipes[0].write(STOP)
            self.pipes[0].close()

    @property
    def pipes(self) -> tuple[Any, Any]:
        return self.popen.stdin, self.popen.stdout


class LocalWorkers:
    """A `WorkerPool` of processes. Used by one thread."""

    def __init__(self, settings: ScorerSettings, workers: int) -> None:
        """Start the processes."""
        self._settings = settings
        self._selector = selectors.DefaultSelector()
        self._processes: list[_Process] = []
        for worker in range(workers):
            self._processes.append(self._started(worker))

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._processes)

    def assign(self, worker: int, task: ShardTask) -> None:
        """Give a worker that is ready its next shard."""
        with contextlib.suppress(OSError):  # it has died: the event comes
            self._processes[worker].pipes[0].write(task_line(task))
            self._processes[worker].pipes[0].flush()

    def events(self) -> Sequence[WorkerEvent]:
        """What happened since the last call; waits a moment if nothing did."""
        events: list[WorkerEvent] = []
        for key, _ in self._selector.select(_WAIT_S):
            worker = int(key.data)
            process = self._processes[worker]
            content = os.read(key.fd, 1 << 16)
            *lines, process.partial = (process.partial + content).split(b"\n")
            events += [event_from_json(worker, json.loads(line)) for line in lines]
            process.has_ended |= any(e.worker == worker and e.event in ("failed", "died") for e in events)
            if not content:
                self._selector.unregister(process.pipes[1])
                process.end()
                if not process.has_ended:
                    events.append(WorkerEvent(worker, "died", message=_how_it_ended(process.popen.returncode)))
                self._processes[worker] = self._started(worker)
        return events

    def close(self) -> None:
        """End all processes now."""
        for process in self._processes:
            process.tell_to_stop()
        for process in self._processes:
            process.end()
        self._selector.close()

    def _started(self, worker: int) -> _Process:
        process = _Process(self._settings)
        self._selector.register(process.pipes[1], selectors.EVENT_READ, worker)
        return process


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process started meanwhile is born with SIGINT blocked: Ctrl-C, which a terminal sends to it too, is for us."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
