"""The server without HTTP: engines, cache, sessions, uploads and the way of a request through them.

    admission (event loop) -> intake (preparing threads) -> scheduler (engine's thread) -> result

Used from one event loop.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.datasets.row_keys import CONTENT
from vprm_runtime.datasets.row_notes import shown_key
from vprm_runtime.engines.host.engine import HostEngine
from vprm_runtime.errors import InputError, ServerError
from vprm_runtime.images.load import NamedImage
from vprm_runtime.options import DEFAULT_OPTIONS, ScoreOptions
from vprm_runtime.results import ScoreResult, StepScore
from vprm_runtime.scorer import StepScorer
from vprm_serving.admission import Admission, Place
from vprm_serving.intake import Intake, Work
from vprm_serving.jobs import Found, Job
from vprm_serving.metrics import Metrics
from vprm_serving.rendezvous import choose
from vprm_serving.scheduler import Scheduler
from vprm_serving.sessions import (
    RemoteSession,
    SessionStore,
    appending,
    at_once,
    check_memory,
    check_prefix,
    next_tokens,
    scoring_next,
)
from vprm_serving.settings import CPU_BLOCK_TOKENS, Settings, read_api_keys
from vprm_serving.uploads import UploadStore

_NOT_OF_A_SESSION = CONTENT - {"question"}
PREPARING_THREADS = 2
DECODING_THREADS = 2
HOUSEKEEPING_S = 5.0


@dataclass(frozen=True)
class Call:
    """What a request says beside its row."""

    options: ScoreOptions = DEFAULT_OPTIONS
    deadline: float | None = None  # of time.monotonic
    emit: Callable[[Found], None] | None = None
    on_work: Callable[[Work], None] | None = None
    tenant: int = 0


@dataclass(frozen=True)
class Answer:
    """A row's result and what it took."""

    work: Work
    result: ScoreResult
    queue_s: float
    run_s: float
    cached_tokens: int


class Service:
    """Everything of one serving process."""

    def __init__(self, settings: Settings, scorers: Sequence[StepScorer] | None = None, id_prefix: str = "") -> None:
        """Open the bundle, its files' hashes checked, on each of the settings' devices; or take opened scorers."""
        self.settings = settings
        limits = settings.limits
        self.scorers = list(scorers) if scorers is not None else open_scorers(settings)
        self.uploads = UploadStore(int(limits.upload_share * settings.cache_bytes), limits.upload_ttl_s)
        self.sessions = SessionStore(limits.session_ttl_s, limits.max_sessions, id_prefix)
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, "vprm-prepare")
        self._decoding = ThreadPoolExecutor(DECODING_THREADS, "vprm-decode")
        share = len(self.scorers)
        self.schedulers = [
            Scheduler(scorer, self._decoding, lambda: (settings.cache_bytes - self.uploads.size_bytes) // share)
            for scorer in self.scorers
        ]
        self.model = self.scorers[0].model
        self.intake = Intake(self.model, self.uploads, settings.image_root, limits)
        self.admission = Admission(limits, self.tokens_per_s, len(read_api_keys(settings.api_key_file)))
        self.metrics = self._metrics()
        self.is_draining = False
        self.is_ready = False
        self.parent: int | None = None
        """The process without which this one must not live on."""

    # ---- life

    async def start(self) -> None:
        """Run a prompt on every engine, so that the first caller finds it warm."""
        row = {"question": "Ready?", "responses": ["Yes."]}
        work = self.intake.work(row, DEFAULT_OPTIONS)
        jobs = [self.intake.job(work) for _ in self.schedulers]
        for scheduler, job in zip(self.schedulers, jobs, strict=True):
            scheduler.submit(work.key, job)
        for job in jobs:
            await asyncio.wrap_future(job.done)
        self.is_ready = True

    async def keep_house(self) -> None:
        """Close what has expired, until cancelled. It never waits for the engine, which may be stuck."""
        closing: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            if self.parent is not None and os.getppid() != self.parent:
                os.kill(os.getpid(), signal.SIGTERM)
            self.uploads.expire()
            for old in self.sessions.expired():
                task = asyncio.create_task(self.close_session(old))
                closing.add(task)
                task.add_done_callback(closing.discard)

    def stop(self) -> None:
        """Fail what is left and give engines back."""
        self.is_ready = False
        for scheduler in self.schedulers:
            scheduler.stop()
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self._decoding.shutdown(wait=False, cancel_futures=True)

    @property
    def pending(self) -> int:
        """Requests that are not answered."""
        return self.admission.requests

    def tokens_per_s(self) -> float | None:
        """What all engines together have done so far."""
        rates = [rate for scheduler in self.schedulers if (rate := scheduler.pulse.tokens_per_s()) is not None]
        return sum(rates) if rates else None

    def stalled(self) -> str | None:
        """Why the process should be restarted, or None."""
        for number, scheduler in enumerate(self.schedulers):
            if not scheduler.is_alive():
                return f"the thread of engine {number} has ended"
            if scheduler.pulse.is_stalled(self.settings.stall_s):
                return f"engine {number} has been in one block for {scheduler.pulse.block_age_s():.1f} s"
        return None

    # ---- scoring

    async def score(self, record: object, call: Call, place: Place, files: Sequence[NamedImage] = ()) -> Answer:
        """Score a row. Raises as scoring does, and ServerError."""
        work = await self.prepared(record, call.options, files)
        if call.on_work is not None:
            call.on_work(work)
        number = self._engine_of(work.key)
        scheduler = self.schedulers[number]
        cached = scheduler.is_cached(work.key)
        place.settle(work.response_tokens + (0 if cached else work.prefix_cost_tokens(self._tokens_per_tile)))
        job = self.intake.job(work, call.deadline, emit=call.emit, tenant=call.tenant)
        result: ScoreResult = await self._run(scheduler, work.key, job)
        now = time.monotonic()
        started = job.started or now
        self.metrics.queue_time.observe(started - job.arrived)
        self.metrics.responses.observe(len(work.responses))
        self.metrics.prefix_queries.inc(job.prefix_tokens)
        self.metrics.prefix_hits.inc(job.cached_tokens)
        return Answer(work, result, started - job.arrived, now - started, job.cached_tokens)

    async def prepared(self, record: object, options: ScoreOptions, files: Sequence[NamedImage] = ()) -> Work:
        """Read a row in the preparing threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._preparing, self.intake.work, record, options, files)

    async def in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run something that takes a while beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, function, *arguments)

    # ---- sessions

    async def open_session(self, record: object, call: Call, place: Place) -> RemoteSession:
        """Run a prefix and keep it for the caller. `record` is a row without responses."""
        with self.sessions.room():
            return await self._open_session(record, call, place)

    async def _open_session(self, record: object, call: Call, place: Place) -> RemoteSession:
        if not isinstance(record, dict):
            raise InputError(f"a session is a JSON object, got {type(record).__name__}")
        unread = [name for name in record if name in _NOT_OF_A_SESSION]
        if unread:
            raise InputError(f"{unread[0]} is not read: a session has image, question, max_tiles")
        work = await self.prepared({**record, "responses": [""]}, call.options)
        if work.row.unread:
            raise InputError(f"{shown_key(work.row.unread[0])} is not read: a session has image, question, max_tiles")
        number = self._engine_of(work.key)
        scheduler = self.schedulers[number]
        scorer = self.scorers[number]
        cached = scheduler.is_cached(work.key)
        place.settle(1 if cached else work.prefix_cost_tokens(self._tokens_per_tile))

        def opened(prefix: Any) -> Any:
            pool = scorer.prefixes
            with scorer.model.lock:
                check_prefix(pool, prefix)
                check_memory(pool)
                return scorer.session_of_prefix(prefix), prefix

        job = self.intake.job(work, call.deadline, tenant=call.tenant)
        job.responses.clear()
        job.operation = at_once(opened)
        session, prefix = await self._run(scheduler, work.key, job)
        return self.sessions.add(session, work.key, prefix, number)

    async def append(self, name: str, step: str, after: int | None, call: Call, place: Place) -> StepScore:
        """Commit a step to a session. Raises ServerError if sessions hold all of the cache."""
        held = self.sessions.get(name)
        scorer = self.scorers[held.engine]
        place.settle(await self.in_thread(next_tokens, scorer.model, held, [step]))
        run = appending(scorer.model, scorer.prefixes, held.session, step, after)
        scored: StepScore = await self._operate(held, run, call)
        return scored

    async def score_next(self, name: str, alternatives: list[str], call: Call, place: Place) -> ScoreResult:
        """Score alternatives for a session's next step."""
        held = self.sessions.get(name)
        if len(alternatives) > (most := self.settings.limits.max_responses):
            raise InputError(
                f"{len(alternatives)} alternatives, at most {most} are taken: send more requests", code="too_large"
            )
        model = self.scorers[held.engine].model
        place.settle(await self.in_thread(next_tokens, model, held, alternatives))
        result: ScoreResult = await self._operate(held, scoring_next(model, held.session, alternatives), call)
        return result

    async def fork(self, name: str, call: Call) -> RemoteSession:
        """A second session with the same past. It shares all rows: what is appended later is counted then."""
        with self.sessions.room():
            held = self.sessions.get(name)
            other = await self._operate(held, at_once(lambda _: held.session.fork()), call)
            return self.sessions.add(other, held.key, held.prefix, held.engine)

    async def rewind(self, name: str, steps: int, call: Call) -> RemoteSession:
        """Forget the last steps of a session."""
        held = self.sessions.get(name)
        await self._operate(held, at_once(lambda _: held.session.rewind(steps)), call)
        return held

    async def close_session(self, held: RemoteSession) -> None:
        """Give a session's rows back. It is out of the store already."""
        try:
            await self._operate(held, at_once(lambda _: held.session.close()), Call())
        except ServerError:  # stopping: the engine goes with all its rows
            return

    async def _operate(self, held: RemoteSession, operation: Any, call: Call) -> Any:
        job = Job(prefix=held.prefix, operation=operation, deadline=call.deadline, tenant=call.tenant)
        return await self._run(self.schedulers[held.engine], held.key, job)

    # ---- inside

    async def _run(self, scheduler: Scheduler, key: bytes, job: Job) -> Any:
        scheduler.submit(key, job)
        try:
            return await asyncio.wrap_future(job.done)
        except asyncio.CancelledError:
            scheduler.wake()
            raise

    def _engine_of(self, key: bytes) -> int:
        return choose(key, [scheduler.load for scheduler in self.schedulers])

    @property
    def _tokens_per_tile(self) -> int:
        return self.model.manifest.model.tokens_per_tile

    def check_open(self) -> None:
        """Raise ServerError if the server is stopping. What came in before is answered."""
        if self.is_draining:
            raise ServerError("the server is stopping: send the request to another one", code="draining")

    def _metrics(self) -> Metrics:
        pulses = [scheduler.pulse for scheduler in self.schedulers]
        pools = [scorer.prefixes for scorer in self.scorers]
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "vprm_requests_running": ("On the engine.", lambda: sum(s.running for s in self.schedulers)),
            "vprm_requests_waiting": ("Not yet on the engine.", lambda: sum(s.waiting for s in self.schedulers)),
            "vprm_queue_tokens": ("Tokens of accepted requests.", lambda: self.admission.tokens),
            "vprm_kv_cache_bytes": ("Real bytes of prefixes and sessions.", lambda: sum(p.cache_bytes for p in pulses)),
            "vprm_upload_bytes": ("Bytes of uploaded images.", lambda: self.uploads.size_bytes),
            "vprm_cache_budget_bytes": ("What both may take.", lambda: self.settings.cache_bytes),
            "vprm_sessions": ("Open sessions.", lambda: len(self.sessions)),
            "vprm_engine_up": ("Whether the engine makes progress.", lambda: float(self.stalled() is None)),
        }
        counters: dict[str, tuple[str, Callable[[], float]]] = {
            "vprm_prompt_tokens": ("Tokens that were run.", lambda: sum(p.tokens for p in pulses)),
            "vprm_response_failure": ("Responses with an error.", lambda: sum(p.failed_responses for p in pulses)),
            "vprm_engine_busy_seconds": ("Time in engine calls.", lambda: sum(p.busy_s for p in pulses)),
            "vprm_prefix_cache_evictions": ("Prefixes evicted.", lambda: sum(p.counters.evictions for p in pools)),
        }
        metrics = Metrics(gauges, counters)
        for pulse in pulses:
            pulse.observe = metrics.iteration.observe
        return metrics


def open_scorers(settings: Settings) -> list[StepScorer]:
    """One scorer per device. The bundle's hashes are checked: a server must not score with damaged weights."""
    bundle = Bundle.open(settings.bundle)
    bundle.verify()
    scorers = []
    cores = os.cpu_count() or 1
    for device in settings.devices:
        threads = settings.threads or (max(1, cores // len(settings.devices)) if len(settings.devices) > 1 else None)
        opened = StepScorer.open(
            bundle, device, threads=threads, max_block_tokens=settings.max_block_tokens,
            prefix_cache_bytes=settings.cache_bytes,
        )  # fmt: skip
        if settings.max_block_tokens is None and isinstance(opened.engine, HostEngine):
            opened = opened.with_engine(
                opened.engine, max_block_tokens=CPU_BLOCK_TOKENS, prefix_cache_bytes=settings.cache_bytes
            )
        scorers.append(opened)
    return scorers
