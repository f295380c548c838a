"""What waits for the engine: a job is one request's work on one prefix, a group is all jobs on the same prefix."""

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from vprm_runtime.errors import ServerError
from vprm_runtime.execution.prefix_pool import RunPrefix
from vprm_runtime.execution.prepare import PreparedPrefix, PreparedResponse
from vprm_runtime.execution.run import FirstSteps
from vprm_runtime.results import CandidateScore, ScoreResult

Run = Generator[int, None, None]
"""Work under way on a prefix's cache; yields the tokens that each block ran."""
Found = CandidateScore | FirstSteps
Operation = Callable[[RunPrefix], Generator[int, None, Any]]
"""Work on a session: made on the engine's thread and advanced there, block by block; yields the tokens that each block
ran, its return value is the job's result. It holds the model's lock while it calls the engine."""


@dataclass(eq=False)
class Job:
    """One request's work: responses to score, or an operation on a session. `done` has the result.

    prefix_tokens: of the prefix; cached_tokens: those that others had run.
    load: decodes the images and tiles them, called in the decoding threads if nobody else's on the prefix was.
    prefix: the session's, which needs nothing decoded.
    emit: called on the engine's thread with whatever is found. tenant: number of the API key that was shown.
    """

    prefix_tokens: int = 0
    load: Callable[[], PreparedPrefix] | None = None
    prefix: RunPrefix | None = None
    tile_counts: tuple[int, ...] = ()
    responses: deque[PreparedResponse] = field(default_factory=deque)
    operation: Operation | None = None
    deadline: float | None = None  # of time.monotonic
    emit: Callable[[Found], None] | None = None
    tenant: int = 0
    done: Future[Any] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    cached_tokens: int = 0
    _results: list[CandidateScore] = field(default_factory=list)
    _wanted: int = 0

    def __post_init__(self) -> None:
        self._wanted = len(self.responses)

    def is_over(self) -> bool:
        """Whether nobody waits for the job any more; one that is past its deadline is failed here."""
        if not self.done.done() and self.deadline is not None and time.monotonic() > self.deadline:
            self.fail(ServerError("the request's deadline passed before it was scored", code="deadline"))
        return self.done.done()

    def found(self, result: Found) -> None:
        """One response's result, or its first steps."""
        if self.emit is not None:
            self.emit(result)
        if isinstance(result, CandidateScore):
            self._results.append(result)
            if len(self._results) == self._wanted:
                by_index = sorted(self._results, key=lambda candidate: candidate.index)
                self.finish(ScoreResult(self.tile_counts, tuple(by_index)))

    def finish(self, result: object) -> None:
        """Answer, unless whoever asked is gone."""
        try:
            self.done.set_result(result)
        except InvalidStateError:
            return

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless whoever asked is gone."""
        try:
            self.done.set_exception(error)
        except InvalidStateError:
            return


@dataclass(eq=False)
class Group:
    """All jobs on one prefix, in order of arrival. The scheduler's lock guards it, but for `run` and `prefix`.

    prepared: question and tiles, until the prefix is run. prefix: the prefix in the engine's cache, held for the group.
    run: what is under way on the prefix's cache; at most one thing at a time. tenant: of the first job.
    """

    key: bytes
    jobs: deque[Job] = field(default_factory=deque)
    prepared: PreparedPrefix | None = None
    prefix: RunPrefix | None = None
    run: Run | None = None
    running: tuple[Job, ...] = ()
    deficit_tokens: float = 0.0
    tenant: int = 0

    def oldest(self, nobody: float | None = None) -> float:
        """When the job that waits longest arrived, of time.monotonic; if nobody waits, `nobody` (default: now)."""
        waiting = [job.arrived for job in (*self.running, *self.jobs) if not job.done.done()]
        return min(waiting, default=time.monotonic() if nobody is None else nobody)

    def prune(self) -> None:
        """Drop the jobs that nobody waits for."""
        self.jobs = deque(job for job in self.jobs if not job.is_over())

    def is_run_wanted(self) -> bool:
        """Whether anybody waits for what is under way; a prefix is everybody's."""
        jobs = self.jobs if self.prefix is None else self.running
        return any(not job.is_over() for job in jobs)
