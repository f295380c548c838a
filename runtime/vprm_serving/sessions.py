"""Sessions of remote callers: `vprm_runtime.Session` objects by id, with a time to live.

Everything that touches a session's cached rows runs on the engine's thread, as a job of the group of its prefix.
"""

import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vprm_runtime.errors import InputError, ServerError, quoted
from vprm_runtime.execution.model import OpenedModel
from vprm_runtime.execution.prefix_pool import PrefixPool, RunPrefix
from vprm_runtime.execution.prepare import prepare_next_steps, prompt_of
from vprm_runtime.results import ScoreResult, StepScore
from vprm_runtime.session import Session
from vprm_serving.jobs import Operation


@dataclass(eq=False)
class RemoteSession:
    """A session, where it lives and when it was last used."""

    id: str
    session: Session
    key: bytes
    prefix: RunPrefix
    engine: int
    used: float = field(default_factory=time.monotonic)

    def facts(self) -> dict[str, Any]:
        """What a caller sees of it."""
        session = self.session
        return {
            "session": self.id,
            "tiles": list(session.tiles),
            "prefix_tokens": session.prefix_tokens,
            "steps": [{"text": step.text, "score": step.score} for step in session.steps],
        }


class SessionStore:
    """Open sessions by id. Used from the event loop only."""

    def __init__(self, ttl_s: float, most: int, id_prefix: str = "") -> None:
        self._ttl_s, self._most, self._id_prefix = ttl_s, most, id_prefix
        self._open: dict[str, RemoteSession] = {}
        self._coming = 0

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Room for a session that is being opened. Raises ServerError if no more are taken."""
        if len(self._open) + self._coming >= self._most:
            raise ServerError(
                f"{self._most} sessions are open, more are not kept: delete those that are done", code="overloaded",
                retry_after_s=self._ttl_s,
            )  # fmt: skip
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    def add(self, session: Session, key: bytes, prefix: RunPrefix, engine: int) -> RemoteSession:
        """Give a session an id that nobody can guess."""
        name = f"{self._id_prefix}{secrets.token_urlsafe(18)}"
        self._open[name] = RemoteSession(name, session, key, prefix, engine)
        return self._open[name]

    def get(self, name: str) -> RemoteSession:
        """The session of that id, used now. Raises InputError, code unknown_session, if there is none (any more)."""
        found = self._open.get(name)
        if found is None:
            raise InputError(
                f"no session {quoted(name)} is open (any more; an unused one is closed after {self._ttl_s:g} s): "
                "create it again and append its steps",
                code="unknown_session",
            )
        found.used = time.monotonic()
        return found

    def remove(self, name: str) -> RemoteSession:
        """Take a session out; the caller has it closed."""
        found = self.get(name)
        del self._open[name]
        return found

    def expired(self) -> list[RemoteSession]:
        """Take out those that were not used within the time to live."""
        oldest = time.monotonic() - self._ttl_s
        old = [found for found in self._open.values() if found.used < oldest]
        for found in old:
            del self._open[found.id]
        return old


def check_memory(pool: PrefixPool) -> None:
    """Raise ServerError if what is in use, sessions above all, holds all of the cache. The model's lock is held."""
    if pool.used_bytes > pool.budget_bytes:
        raise ServerError("sessions hold all of the cache: close some", code="overloaded", retry_after_s=5)


def check_prefix(pool: PrefixPool, prefix: RunPrefix) -> None:
    """Raise InputError if a prefix alone takes more than the whole cache. The model's lock is held."""
    if prefix.size_bytes > pool.budget_bytes:
        raise InputError(
            f"the session's prefix takes {prefix.size_bytes:,} bytes, the cache has {pool.budget_bytes:,}: score whole "
            "rows, or give the server more --cache-bytes",
            code="too_large",
        )


def next_tokens(model: OpenedModel, held: RemoteSession, steps: Sequence[str]) -> int:
    """Tokens that the next steps bring, those that cannot be scored left out. Any thread may ask."""
    session, question = held.session, held.prefix.question
    done, tiles = session.steps, session.tiles
    before = len(prompt_of(model, question, tiles, [step.text for step in done]).ids) if done else session.prefix_tokens
    prepared = prepare_next_steps(model, question, tiles, done, steps)
    return sum(max(1, len(one.prompt.ids) - before) for one in prepared if one.prompt is not None)


def locked(model: OpenedModel, run: Generator[int, None, Any]) -> Generator[int, None, Any]:
    """The same run with the model's lock held while it is advanced or closed."""
    try:
        while True:
            with model.lock:
                tokens = next(run)
            yield tokens
    except StopIteration as end:
        return end.value
    finally:
        with model.lock:
            run.close()


def appending(model: OpenedModel, pool: PrefixPool, session: Session, step: str, after: int | None) -> Operation:
    """Commit a step. With `after`, the number of steps that the caller knows of, a repeated request commits it once.

    Raises InputError, code conflict, if other steps are committed; ServerError if the cache has no room for more.
    """

    def run(prefix: RunPrefix) -> Generator[int, None, StepScore]:
        done = session.steps
        if after is not None and len(done) != after:
            if len(done) == after + 1 and done[-1].text == step:
                return done[-1]
            raise InputError(
                f"the session has {len(done)} steps, the request was made after {after}: read it again", code="conflict"
            )
        with model.lock:
            check_memory(pool)
        scored: StepScore = yield from locked(model, session.appending(step))
        return scored

    return run


def scoring_next(model: OpenedModel, session: Session, alternatives: list[str]) -> Operation:
    """Score alternatives for the next step."""

    def run(prefix: RunPrefix) -> Generator[int, None, ScoreResult]:
        result: ScoreResult = yield from locked(model, session.scoring_next(alternatives))
        return result

    return run


def at_once(action: Any) -> Operation:
    """An operation that runs no block; its session methods take the model's lock themselves."""

    def run(prefix: RunPrefix) -> Generator[int, None, Any]:
        return action(prefix)
        yield 0

    return run
