"""The one thread that drives an engine: picks a group, runs one block of it, looks around, picks again.

Submitting, cancelling and looking on may be done from any thread. Between two blocks the engine's thread drops what
nobody waits for any more. Whatever a group's work raises fails that group's jobs and no others.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace

from vprm_runtime.errors import ServerError, VprmError
from vprm_runtime.execution.prefix_pool import RunPrefix
from vprm_runtime.execution.prepare import PreparedPrefix, PreparedResponse
from vprm_runtime.execution.run import RunTokens, run_candidates, run_prefix
from vprm_runtime.results import CandidateScore
from vprm_runtime.scorer import StepScorer
from vprm_serving.fair_queue import FairQueue
from vprm_serving.jobs import Group, Job, Run
from vprm_serving.pulse import Pulse

_LOG = logging.getLogger("vprm.serving")
QUANTUM_BLOCKS = 4
DECODED_AHEAD = 8
"""Prefixes whose tiles are in memory and that wait for the engine; more wait undecoded."""


class Scheduler:
    """Runs jobs on one scorer's engine, in a thread of its own. Threads may share it."""

    def __init__(self, scorer: StepScorer, decoders: Executor, pool_bytes: Callable[[], int]) -> None:
        """`decoders` runs what decodes images. `pool_bytes` says how many bytes the prefixes may take at the moment."""
        self.scorer = scorer
        self.pulse = Pulse()
        self._model, self._pool = scorer.model, scorer.prefixes
        self._decoders, self._pool_bytes = decoders, pool_bytes
        self._changed = threading.Condition()
        self._groups: dict[bytes, Group] = {}
        self._pool.waited_for = self._groups  # a job that was admitted as cached finds its prefix
        self._queue = FairQueue(QUANTUM_BLOCKS * self._model.max_block_tokens)
        self._undecoded: list[Group] = []
        self._decoding: dict[bytes, int] = {}  # key -> tenant; until the prefix is run
        self._is_stopped = False
        self._thread = threading.Thread(target=self._work, name="vprm-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        with self._changed:
            return sum(job.started is None for group in self._groups.values() for job in group.jobs)

    @property
    def running(self) -> int:
        """Jobs that have begun and are not done."""
        with self._changed:
            jobs = {id(job): job for group in self._groups.values() for job in (*group.jobs, *group.running)}
            return sum(job.started is not None and not job.done.done() for job in jobs.values())

    @property
    def load(self) -> int:
        """Jobs that are not done."""
        return self.waiting + self.running

    def is_cached(self, key: bytes) -> bool:
        """Whether a job on that prefix is likely to find it run, or being run for another job."""
        return key in self._groups or self._pool.peek(key) is not None

    def submit(self, key: bytes, job: Job) -> None:
        """Take a job on the prefix of that key. Raises ServerError after `stop`."""
        with self._changed:
            if self._is_stopped:
                raise ServerError("the server is stopping: send the request again later", code="draining")
            group = self._groups.get(key)
            if group is not None:
                group.jobs.append(job)
                job.cached_tokens = job.prefix_tokens
            else:
                group = self._groups[key] = Group(key, deque([job]), tenant=job.tenant)
                self._admit(group)
            self._changed.notify()

    def wake(self) -> None:
        """Look around at once: a job was cancelled, or there is less memory."""
        with self._changed:
            self._changed.notify()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Fail what is left, give all prefixes back and end the thread, after the block that is being run."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    # ---- becoming able to run; the lock is held

    def _admit(self, group: Group) -> None:
        """Into the ring if nothing has to be decoded first, else to the decoders."""
        is_run = self._pool.peek(group.key) is not None or any(job.prefix is not None for job in group.jobs)
        if is_run:
            self._queue.push(group)
        else:
            self._undecoded.append(group)
            self._decode_more()

    def _decode_more(self) -> None:
        while self._undecoded and len(self._decoding) < DECODED_AHEAD:
            taken = Counter(self._decoding.values())
            group = min(self._undecoded, key=lambda waiting: taken[waiting.tenant])  # the first of equals
            self._undecoded.remove(group)
            group.prune()
            load = next((job.load for job in group.jobs if job.load is not None), None)
            if load is None:
                self._drop(group)
                continue
            self._decoding[group.key] = group.tenant
            self._decoders.submit(load).add_done_callback(lambda future, g=group: self._decoded(g, future))  # type: ignore[misc]

    def _decoded(self, group: Group, future: "Future[PreparedPrefix]") -> None:
        """On a decoder's thread: into the ring, or an error for everybody who waits."""
        with self._changed:
            error = future.exception() if not future.cancelled() else ServerError(code="draining")
            if error is None:
                group.prepared = future.result()
                self._queue.push(group)
            else:
                self._drop(group)
                for job in group.jobs:
                    job.fail(error)
            self._changed.notify()

    def _drop(self, group: Group) -> None:
        self._groups.pop(group.key, None)
        self._decoding.pop(group.key, None)
        if group in self._queue:
            self._queue.remove(group)
        self._decode_more()

    # ---- the engine's thread

    def _work(self) -> None:
        while True:
            group = self._next_group()
            if group is None:
                break
            self._turn(group)
            self._look_at_pool()
        with self._changed:
            for group in list(self._groups.values()):
                self._fail(group, ServerError("the server is stopping: send the request again later", code="draining"))
        with self._model.lock:
            self._pool.clear()

    def _next_group(self) -> Group | None:
        while True:
            self._fit_pool()
            with self._changed:
                if self._is_stopped:
                    return None
                group = self._queue.pick(time.monotonic())
                if group is not None:
                    return self._affordable(group)
                self._changed.wait(timeout=1.0)

    def _affordable(self, group: Group) -> Group:
        """The group; if prefixes in use fill the cache and its own is not run, one that came before it. Lock held.

        That one ends first and gives its memory back: else all waiting groups would hold a prefix each.
        """
        if group.prefix is not None or all(job.is_over() for job in group.jobs):
            return group
        with self._model.lock:
            if self._pool.used_bytes <= self._pool.budget_bytes:
                return group
        for waiting in self._groups.values():
            for job in waiting.jobs:
                job.is_over()  # answers those that are late
        arrived = group.oldest()
        able = [one for one in self._groups.values() if one.prefix is not None and one in self._queue]
        came = {one: one.oldest(nobody=0.0) for one in able}  # if nobody waits, its end is all that is left to do
        return min((one for one in able if came[one] < arrived), key=came.__getitem__, default=group)

    def _look_at_pool(self) -> None:
        with self._model.lock:  # sessions may be collected in any thread
            self.pulse.cache_bytes = self._pool.size_bytes

    def _fit_pool(self) -> None:
        allowed = self._pool_bytes()
        if allowed != self._pool.budget_bytes:
            with self._model.lock:
                self._pool.budget_bytes = allowed
                self._pool.shrink()
            self._look_at_pool()

    def _turn(self, group: Group) -> None:
        """One block of a group, or the end of its work."""
        with self._changed:
            if group.run is None or not group.is_run_wanted():
                if self._end_run(group):
                    return
                group.run = self._next_run(group)
                if group.run is None:  # its tiles have to be decoded first
                    self._queue.remove(group)
                    self._undecoded.append(group)
                    self._decode_more()
                    return
        try:
            self._advance(group)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this group's and must not end the thread
            if not isinstance(error, VprmError):  # those are the caller's, or told with the request
                _LOG.exception("a group failed")
            with self._changed:
                self._fail_running(group, error)

    def _advance(self, group: Group) -> None:
        if group.run is None:
            return
        with self.pulse.block():
            tokens = next(group.run, None)
        with self._changed:
            if tokens is None:
                group.run, group.running = None, ()
            else:
                self._queue.charge(group, tokens)
                self.pulse.tokens += tokens

    def _end_run(self, group: Group) -> bool:
        """Close a run that nobody waits for; whether the group has nothing left to do and is gone. Lock held."""
        if group.run is not None:
            group.run.close()
            group.run, group.running = None, ()
        group.prune()
        if group.jobs:
            return False
        self._drop(group)
        if group.prefix is not None:
            with self._model.lock:
                self._pool.release(group.prefix)
            group.prefix = None
        return True

    def _next_run(self, group: Group) -> Run | None:
        """What a group does next: its prefix, an operation, or a block's worth of responses. Lock held."""
        if group.prefix is None:
            with self._model.lock:
                group.prefix = self._pool.take(group.key) or self._held_by_session(group)
            if group.prefix is not None:
                for job in group.jobs:
                    job.cached_tokens = job.prefix_tokens
                group.prepared = None
                self._decoding.pop(group.key, None)
                self._decode_more()
        if group.prefix is None:
            if group.prepared is None:
                return None
            group.running = tuple(group.jobs)
            return self._run_prefix(group, group.prepared)
        if group.jobs[0].operation is not None:
            job = group.jobs.popleft()
            job.started = time.monotonic()
            group.running = (job,)
            return self._run_operation(group, job)
        batch = self._batch(group)
        group.running = tuple({id(job): job for job, _ in batch}.values())
        return self._run_batch(group, batch)

    def _held_by_session(self, group: Group) -> RunPrefix | None:
        """The prefix of a session that a job of the group is about, held once more."""
        prefix = next((job.prefix for job in group.jobs if job.prefix is not None), None)
        if prefix is not None:
            prefix.users += 1
        return prefix

    def _batch(self, group: Group) -> list[tuple[Job, PreparedResponse]]:
        """Responses of the first jobs, as many as fit one block; at least one."""
        ids = group.prefix.ids if group.prefix is not None else ()
        batch: list[tuple[Job, PreparedResponse]] = []
        tokens = 0
        while group.jobs and group.jobs[0].operation is None:
            job = group.jobs[0]
            job.started = job.started or time.monotonic()
            while job.responses:
                response = job.responses[0]
                new = 0 if response.failed is not None else response.candidate(ids).new_tokens
                if batch and tokens + new > self._model.max_block_tokens:
                    return batch
                batch.append((job, job.responses.popleft()))
                tokens += new
            group.jobs.popleft()
        return batch

    # What is under way on a prefix's cache: generators of the tokens that each block ran.

    def _run_prefix(self, group: Group, prepared: PreparedPrefix) -> Run:
        run = run_prefix(self._model, prepared)
        tiles = sum(prepared.tile_counts) * self._model.manifest.model.tokens_per_tile
        try:
            while True:
                with self._model.lock:
                    tokens = next(run)
                yield tokens + tiles
                tiles = 0
        except StopIteration as end:
            with self._model.lock:
                prefix = self._pool.opened(prepared, *end.value)
                self._pool.keep(group.key, prefix)
            group.prefix, group.prepared = prefix, None
        finally:
            run.close()
        with self._changed:
            self._decoding.pop(group.key, None)
            self._decode_more()

    def _run_batch(self, group: Group, batch: list[tuple[Job, PreparedResponse]]) -> Run:
        prefix = group.prefix
        if prefix is None:
            return
        numbered = [_numbered(response, number) for number, (_, response) in enumerate(batch)]
        tokens = RunTokens(self._model, prefix.ids, numbered)
        with self._model.lock:
            prefix.tree.reclaim()
        run = run_candidates(self._model, prefix.tree, prefix.ids, prefix.branch, numbered)
        try:
            while True:
                with self._model.lock:
                    finds = next(run, None)
                if finds is None:
                    return
                for found in finds:
                    job, response = batch[found.index]
                    if isinstance(found, CandidateScore) and found.error is not None:
                        self.pulse.failed_responses += 1
                    job.found(replace(found, index=response.index))
                yield tokens.of(finds)
        finally:
            with self._model.lock:
                run.close()

    def _run_operation(self, group: Group, job: Job) -> Run:
        if group.prefix is None or job.operation is None:
            return
        run = job.operation(group.prefix)
        try:
            job.finish((yield from run))
        finally:
            run.close()

    def _fail_running(self, group: Group, error: Exception) -> None:
        """Fail the jobs whose work raised; if it was the prefix, or the engine itself, all of the group. Lock held."""
        if group.prefix is None:
            self._fail(group, error)
            return
        for job in group.running:
            job.fail(error)
        group.run, group.running = None, ()

    def _fail(self, group: Group, error: Exception) -> None:
        for job in (*group.running, *group.jobs):
            job.fail(error)
        group.jobs.clear()
        if group.run is not None:
            group.run.close()
            group.run, group.running = None, ()
        self._end_run(group)


def _numbered(response: PreparedResponse, number: int) -> PreparedResponse:
    failed = None if response.failed is None else replace(response.failed, index=number)
    return replace(response, index=number, failed=failed)
