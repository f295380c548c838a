"""Shards are handed to workers, one at a time each; a worker that dies is replaced, and its shard goes on.

Resuming is the output's own affair (score_file.py): a shard that is handed out again goes on after its last line. What
runs the workers is a `WorkerPool`: processes of this machine (local_workers.py), or Ray actors.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from vprm_runtime.datasets.attempts import MAX_TRIES
from vprm_runtime.datasets.shards import Shard, ShardSet
from vprm_runtime.errors import BundleError, EngineError, InputError, UnsupportedError, VprmError
from vprm_runtime.options import DEFAULT_OPTIONS, ScoreOptions

Progress = Callable[[int, int, int], None]  # rows done, rows in all, rows with an error
_MAX_FRUITLESS_DEATHS = MAX_TRIES + 2  # a row is set aside before; then it is not a row that kills the process
_MAX_STARTS = 3
_LOG = logging.getLogger("vprm")
_KINDS: dict[str, type[VprmError]] = {kind.__name__: kind for kind in (InputError, BundleError, UnsupportedError)}


@dataclass(frozen=True)
class ScorerSettings:
    """How a worker opens its scorer: arguments of `StepScorer.open`."""

    bundle: str
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class ShardTask:
    """A shard to score: absolute paths, which have to lead to the same files on every machine that has workers.

    Options are those of `score_file`.
    """

    input: str
    output: str
    image_root: str | None = None
    options: ScoreOptions = DEFAULT_OPTIONS
    keep_errors: bool = False


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker reports.

    ready: it has opened its scorer. progress, done: rows of its shard that are done, and those with an error.
    failed: an error of the input or the bundle (`kind` names its class): another try would fail too. died: the process
    ended, or its engine failed; the pool starts another in its place, which reports `ready`.
    """

    worker: int
    event: Literal["ready", "progress", "done", "failed", "died"]
    done: int = 0
    errors: int = 0
    message: str = ""
    kind: str = ""


class WorkerPool(Protocol):
    """Workers, numbered from 0, each of which scores one shard at a time."""

    @property
    def workers(self) -> int:
        """How many there are."""
        ...

    def assign(self, worker: int, task: ShardTask) -> None:
        """Give a worker that is ready its next shard."""
        ...

    def events(self) -> Sequence[WorkerEvent]:
        """What happened since the last call; waits a moment if nothing did."""
        ...

    def close(self) -> None:
        """End all workers now."""
        ...


@dataclass
class _State:
    """A run: what is left to do, who does what, and what went wrong."""

    waiting: deque[Shard]
    busy: dict[int, Shard] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)  # since the shard's output last grew
    sizes_bytes: dict[str, int] = field(default_factory=dict)
    failed_starts: int = 0


def run_shards(
    shards: ShardSet,
    scores: Path,
    pool: WorkerPool,
    *,
    image_root: Path | None = None,
    options: ScoreOptions = DEFAULT_OPTIONS,
    keep_errors: bool = False,
    progress: Progress = lambda done, total, errors: None,
) -> dict[str, str]:
    """Score all shards into files in the directory `scores`, going on where an earlier run stopped.

    Rows that an earlier run left with an error are tried again, unless `keep_errors`; those that this run leaves with
    one are not.

    Returns:
        Shards that could not be scored to the end because every process that took them died before it came to a row,
        and why; usually none. A row that kills its process is not among them: its line carries the error.

    Raises:
        InputError: an input, an output or an option is unusable; so is what else a worker's `open` raises.
        EngineError: the workers die before they are ready.
    """
    scores.mkdir(parents=True, exist_ok=True)
    state = _State(deque(sorted(shards.shards, key=lambda shard: -shard.rows)))  # long ones first: an even end
    progress(0, shards.rows, 0)
    while state.waiting or state.busy:
        for event in pool.events():
            shard = state.busy.get(event.worker)
            if event.event == "failed":
                raise _KINDS.get(event.kind, VprmError)(event.message)
            if event.event == "died":
                _worker_died(state, event, scores)
            elif event.event in ("progress", "done") and shard is not None:
                state.done[shard.name], state.errors[shard.name] = event.done, event.errors
                progress(sum(state.done.values()), shards.rows, sum(state.errors.values()))
                if event.event == "done":
                    del state.busy[event.worker]
            if event.event in ("ready", "done"):
                state.failed_starts = 0
                if state.waiting:
                    shard = state.busy[event.worker] = state.waiting.popleft()
                    task = _task(shard, shards, scores, image_root, options)
                    is_again = keep_errors or shard.name in state.deaths
                    pool.assign(event.worker, replace(task, keep_errors=is_again))
    return state.set_aside


def _task(shard: Shard, shards: ShardSet, scores: Path, image_root: Path | None, options: ScoreOptions) -> ShardTask:
    root = None if image_root is None else str(image_root.absolute())
    directory = shards.directory.absolute()
    return ShardTask(str(directory / shard.name), str(scores.absolute() / shard.output_name), root, options)


def _worker_died(state: _State, event: WorkerEvent, scores: Path) -> None:
    """Put the worker's shard back, or aside if its output has not grown for too many deaths."""
    shard = state.busy.pop(event.worker, None)
    if shard is None:
        state.failed_starts += 1
        if state.failed_starts == _MAX_STARTS:
            raise EngineError(f"workers die before they are ready ({event.message}): score one row without them first")
        return
    output = scores / shard.output_name
    size = output.stat().st_size if output.exists() else 0
    if size > state.sizes_bytes.get(shard.name, -1):
        state.deaths[shard.name] = 0
    state.sizes_bytes[shard.name] = size
    state.deaths[shard.name] += 1
    _LOG.warning("%s: its worker died (%s); another goes on with it", shard.name, event.message)
    if state.deaths[shard.name] >= _MAX_FRUITLESS_DEATHS:
        state.set_aside[shard.name] = event.message
    else:
        state.waiting.appendleft(shard)


def event_from_json(worker: int, document: dict[str, Any]) -> WorkerEvent:
    """An event as a worker reports it, without its number."""
    return WorkerEvent(worker=worker, **document)
