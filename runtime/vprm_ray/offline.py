"""Workers as Ray actors: `vprm score --ray`. An actor that dies is restarted by Ray, here or on another machine.

Each actor has a process beside it that scores (scoring_process.py).
Actors read shards and write scores by path: bundle, shards, images and outputs have to be at the same paths on every
machine (a shared file system), and `vprm` has to be installed there.
"""

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from vprm_ray.scoring_process import Event, ScoringProcess
from vprm_runtime.datasets.shard_runner import ScorerSettings, ShardTask, WorkerEvent
from vprm_runtime.errors import EngineError, InputError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before ray is imported: nothing is reported to anyone
import ray
import ray.exceptions

LOCAL = "local"
_STATE = "state"  # calls that are answered while a shard is scored
_WAIT_S = 0.5
_RESTART_S = 0.5
_STATE_INTERVAL_S = 1.0
_PATIENCE_S = 30.0
_OWNER_DIED = "its owner has died"  # Ray's words if this process's own node is gone
_NODE_ENDED = "the Ray node that this command is connected to ended"
_OBJECT_STORE_BYTES = 100 << 20  # only tasks and counts pass through it
_LOG = logging.getLogger("vprm")


class RayWorkers:
    """A `WorkerPool` of Ray actors. Used by one thread."""

    def __init__(self, settings: ScorerSettings, workers: int, cpus: float, gpus: float) -> None:
        """Start the actors on the cluster that this process is connected to."""
        kind = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=0, concurrency_groups={_STATE: 1}
        )(_Actor)
        self._actors = [kind.remote(settings) for _ in range(workers)]
        self._pending: dict[Any, int] = {}  # what runs -> the worker that runs it
        self._states: dict[Any, int] = {}  # the same for questions how far it is
        self._busy: set[int] = set()
        self._restarting: dict[int, float] = {}  # worker -> when to ask it again
        self._asked_at = time.monotonic()
        self._started_at: float | None = time.monotonic()
        self._owns_connection = False
        for worker in range(workers):
            self._open(worker)

    @staticmethod
    def connected(address: str, settings: ScorerSettings, workers: int | None, cpus: int, gpus: float) -> "RayWorkers":
        """Connect to a cluster, or start one on this machine, and start actors.

        Args:
            address: a cluster's address, "auto" for the one that this machine belongs to, "local" for a new one.
            settings: how each actor opens its scorer.
            workers: how many actors (default: as many as the cluster has room for now).
            cpus: CPUs that Ray counts for an actor.
            gpus: GPUs that Ray counts for an actor; a part of one, such as 0.5, lets actors share it.

        Raises:
            EngineError: the cluster cannot be reached or started.
            InputError: `gpus` is negative, or there is room for no actor and `workers` is not given.
        """
        if gpus < 0:
            raise InputError(f"--worker-gpus must be at least 0, got {gpus}")
        owns_connection = not ray.is_initialized()
        if owns_connection:
            _connect(address, (workers or max(1, (os.cpu_count() or 1) // cpus)) * cpus)
        count = workers or _room(cpus, gpus)
        pool = RayWorkers(settings, count, cpus, gpus)
        pool._owns_connection = owns_connection
        return pool

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._actors)

    def assign(self, worker: int, task: ShardTask) -> None:
        """Give a worker that is ready its next shard."""
        self._busy.add(worker)
        self._pending[self._actors[worker].score.remote(task)] = worker

    def events(self) -> Sequence[WorkerEvent]:
        """What happened since the last call; waits a moment if nothing did."""
        self._warn_if_none_starts()
        for worker in [worker for worker, due in self._restarting.items() if due <= time.monotonic()]:
            self._open(worker)
        if time.monotonic() - self._asked_at > _STATE_INTERVAL_S:
            self._asked_at = time.monotonic()
            asked = set(self._states.values())
            self._states |= {
                self._actors[worker].state.options(concurrency_group=_STATE).remote(): worker
                for worker in self._busy - asked
            }
        running = [*self._pending, *self._states]
        if not running:  # every worker is being restarted
            time.sleep(_WAIT_S)
            return []
        ready, _ = ray.wait(running, num_returns=1, timeout=_WAIT_S)
        more, _ = ray.wait(running, num_returns=len(running), timeout=0)
        events = []
        for reference in dict.fromkeys([*ready, *more]):
            event = self._state_event(reference) if reference in self._states else self._finished(reference)
            events += [event] if event is not None else []
        return events

    def close(self) -> None:
        """End all actors now. The cluster goes on, unless it was started here."""
        stops = [actor.stop.options(concurrency_group=_STATE).remote() for actor in self._actors]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait(stops, num_returns=len(stops), timeout=2)
        for actor in self._actors:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)
        if self._owns_connection:
            ray.shutdown()

    def _open(self, worker: int) -> None:
        self._busy.discard(worker)
        self._restarting.pop(worker, None)
        self._pending[self._actors[worker].open.remote()] = worker

    def _finished(self, reference: Any) -> WorkerEvent | None:
        worker = self._pending.pop(reference)
        was_busy = worker in self._busy
        try:
            event = WorkerEvent(worker=worker, **ray.get(reference))
        except ray.exceptions.ActorUnavailableError as error:  # it died, or its machine is slow; Ray restarts it
            self._busy.discard(worker)
            self._restarting[worker] = time.monotonic() + _RESTART_S
            message = " ".join(str(error).split())[:300]
            return WorkerEvent(worker, "died", message=message) if was_busy else None
        except ray.exceptions.RayActorError as error:
            if _OWNER_DIED in str(error):
                return WorkerEvent(worker, "failed", message=f"{_NODE_ENDED}: run the same command again, it goes on")
            # else Ray starts another process in its place
            event = WorkerEvent(worker, "died", message=" ".join(str(error).split())[:300])
        if event.event == "died":
            self._open(worker)
        else:
            self._busy.discard(worker)
            self._started_at = None
        return event

    def _state_event(self, reference: Any) -> WorkerEvent | None:
        worker = self._states.pop(reference)
        try:
            done, errors = ray.get(reference)
        except ray.exceptions.RayActorError:
            return None
        return WorkerEvent(worker, "progress", done, errors) if done and worker in self._busy else None

    def _warn_if_none_starts(self) -> None:
        if self._started_at is not None and time.monotonic() - self._started_at > _PATIENCE_S:
            self._started_at = None
            _LOG.warning("no worker is ready yet; the cluster has free: %s", ray.available_resources())


class _Actor:
    """An actor of the cluster: it passes shards on to the process that scores them, and says how far that is."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        self._process: ScoringProcess | None = None
        self._done, self._errors = 0, 0

    def open(self) -> Event:
        """Open the scorer."""
        self.stop()
        self._process = ScoringProcess(self._settings)
        return self._named(self._process.event())

    def score(self, task: ShardTask) -> Event:
        """Score a shard to its end."""
        if self._process is None:
            return {"event": "died", "message": "the actor was restarted"}
        self._done, self._errors = 0, 0
        self._process.assign(task)
        while (event := self._process.event())["event"] == "progress":
            self._done, self._errors = event["done"], event["errors"]
        return self._named(event)

    def state(self) -> tuple[int, int]:
        """Rows of the shard that are done, and those with an error."""
        return self._done, self._errors

    def stop(self) -> None:
        """The process ends now, and no row is to blame."""
        if self._process is not None:
            self._process.stop()

    @staticmethod
    def _named(event: Event) -> Event:
        """What failed, and on which machine."""
        if event["event"] != "failed":
            return event
        return {**event, "message": f"{event['message']} (on {ray.util.get_node_ip_address()})"}


def _connect(address: str, cpus: int) -> None:
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            ray.init(
                address=LOCAL, num_cpus=cpus, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **common
            )
        else:
            ray.init(address=address, **common)
    except Exception as error:
        what = "started on this machine" if address == LOCAL else f"reached at {address}"
        raise EngineError(f"no Ray cluster can be {what} ({' '.join(str(error).split())[:200]})") from error


def _room(cpus: float, gpus: float) -> int:
    """How many actors the cluster has room for. Raises InputError if none."""
    free = ray.available_resources()
    room = int(free.get("CPU", 0) // cpus)
    if gpus:
        room = min(room, int(free.get("GPU", 0) / gpus))
    if room < 1:
        raise InputError(f"the cluster has no room for a worker (free: {free}): give --workers to wait for it")
    return room
