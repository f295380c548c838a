"""A process beside an actor that does the scoring, and outlives it by the row that it is at.

Ray ends an actor's process without a word when the driver or the raylet is gone, and with it whatever the process was
doing. What scores is therefore a process of its own, in a session of its own and no child of the actor's: when its
stdin ends, it finishes and writes its row (shard_worker.py). So only a kill of that very process costs a row.
"""

import contextlib
import json
import subprocess
import sys
from typing import Any

from vprm_runtime.datasets.shard_runner import ScorerSettings, ShardTask
from vprm_runtime.datasets.shard_worker import STOP, process_arguments, task_line

_DETACH = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
Event = dict[str, Any]
"""A `WorkerEvent` without its worker."""


class ScoringProcess:
    """One process, asked by one thread; `stop` may come from another."""

    def __init__(self, settings: ScorerSettings) -> None:
        """Start the process; its first event is `ready`, `failed` or `died`."""
        first = subprocess.Popen(
            [sys.executable, "-c", _DETACH, *process_arguments(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        first.wait()
        if first.stdin is None or first.stdout is None:
            raise RuntimeError("a process was started without pipes")
        self._tasks, self._events = first.stdin, first.stdout

    def event(self) -> Event:
        """The next event; waits for it."""
        line = self._events.readline()
        if not line.endswith(b"\n"):
            return {"event": "died", "message": "the process that scores ended"}
        event: Event = json.loads(line)
        return event

    def assign(self, task: ShardTask) -> None:
        """Give it a shard."""
        with contextlib.suppress(OSError):  # it has died: the event comes
            self._tasks.write(task_line(task))
            self._tasks.flush()

    def stop(self) -> None:
        """End it now; no row is to blame."""
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was told before
            self._tasks.write(STOP)
            self._tasks.close()
