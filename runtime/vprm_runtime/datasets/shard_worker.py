"""What a worker does with a shard, whoever runs it; and the process that a pool on this machine starts.

As a process (`python -m vprm_runtime.datasets.shard_worker SETTINGS`), tasks come on stdin and events go to stdout, as
lines of JSON. On the line `stop` the process ends at once. If stdin ends without it, whoever started the process was
killed: the row that is being scored is finished and written, so that it is not lost, and the process ends after it.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vprm_runtime.datasets.attempts import Attempts
from vprm_runtime.datasets.score_file import BatchSummary, score_file
from vprm_runtime.datasets.shard_runner import ScorerSettings, ShardTask
from vprm_runtime.errors import EngineError, InputError, VprmError
from vprm_runtime.options import ScoreOptions
from vprm_runtime.scorer import StepScorer

Report = Callable[[int, int], None]  # rows done, rows with an error
STOP = b"stop\n"
_REPORT_INTERVAL_S = 0.2
_LAST_ROW_S = 120.0  # a process whose starter was killed takes no longer for the row that it is at
_LOCK_WAIT_S = 30.0 + _LAST_ROW_S  # its shard is locked until then


class _LeavingError(Exception):
    """The row is written, and the process is to end."""


class ShardWorker:
    """A scorer that takes shards one after the other. `stop` and `leave` may come from another thread."""

    def __init__(self, settings: ScorerSettings) -> None:
        """Open the scorer. Raises what `StepScorer.open` raises."""
        self._scorer = StepScorer.open(settings.bundle, settings.device, threads=settings.threads)
        self._attempts: Attempts | None = None
        self._is_leaving = False

    @property
    def engine(self) -> str:
        """What runs the graphs."""
        return self._scorer.engine.description

    def score(self, task: ShardTask, report: Report) -> BatchSummary:
        """Score a shard, or go on with it. Raises what `score_file` raises."""
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                return self._score(task, report)
            except InputError as error:
                if error.code != "locked" or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def stop(self) -> None:
        """The process ends now, and no row is to blame."""
        if self._attempts is not None:
            self._attempts.forget()

    def leave(self) -> None:
        """End the shard that is being scored after the row that is being scored, with an exception."""
        self._is_leaving = True

    def _score(self, task: ShardTask, report: Report) -> BatchSummary:
        last = 0.0

        def progress(done: int, total: int | None, errors: int) -> None:
            nonlocal last
            if self._is_leaving:
                raise _LeavingError
            now = time.monotonic()
            if now - last >= _REPORT_INTERVAL_S:
                last = now
                report(done, errors)

        with Attempts(Path(task.output)) as self._attempts:
            summary = score_file(
                self._scorer, task.input, task.output,
                image_root=task.image_root, options=task.options, progress=progress, attempts=self._attempts,
                keep_errors=task.keep_errors,
            )  # fmt: skip
        report(summary.rows, summary.errors)
        return summary


def task_line(task: ShardTask) -> bytes:
    """A task as the process takes it."""
    return json.dumps({**vars(task), "options": vars(task.options)}).encode() + b"\n"


def process_arguments(settings: ScorerSettings) -> Sequence[str]:
    """What the interpreter is started with to become such a process."""
    return ["-m", "vprm_runtime.datasets.shard_worker", json.dumps(asdict(settings))]


def main() -> int:
    """Run the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the one that started it, which closes stdin
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no event
    lock = threading.Lock()

    def send(event: str, **values: Any) -> None:
        with lock, suppress(OSError):  # nobody reads any more: stdin has ended too
            events.write(json.dumps({"event": event, **values}).encode() + b"\n")

    try:
        worker = ShardWorker(ScorerSettings(**json.loads(sys.argv[1])))
    except VprmError as error:
        send("failed", message=str(error), kind=type(error).__name__)
        return 1
    send("ready", message=worker.engine)
    tasks: queue.SimpleQueue[ShardTask | None] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(tasks, worker), daemon=True).start()
    while (task := tasks.get()) is not None:
        try:
            summary = worker.score(task, lambda done, errors: send("progress", done=done, errors=errors))
            send("done", done=summary.rows, errors=summary.errors)
        except _LeavingError:
            return 0
        except EngineError as error:  # a new process may do better
            send("died", message=str(error))
            return 1
        except VprmError as error:
            send("failed", message=str(error), kind=type(error).__name__)
            return 1
    return 0


def _read_tasks(tasks: "queue.SimpleQueue[ShardTask | None]", worker: ShardWorker) -> None:
    for line in sys.stdin.buffer:
        if line == STOP:
            break
        document = json.loads(line)
        tasks.put(ShardTask(**{**document, "options": ScoreOptions(**document["options"])}))
    else:
        worker.leave()
        tasks.put(None)
        time.sleep(_LAST_ROW_S)
    worker.stop()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
