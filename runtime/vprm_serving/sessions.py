"""Sessions of remote callers: `vprm_runtime.Session` objects by id, with a time to live.

Everything that touches a session's cached rows runs on the engine's thread, as a job of the group of its prefix.
"""

import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from vprm_runtime.errors import InputError, ServerError, quoted
from vprm_runtime.execution.model import OpenedModel
from vprm_runtime.execution.prefix_pool import RunPrefix
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

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Raise ServerError if no more sessions are taken."""
        if len(self._open) >= self._most:
            raise ServerError(
                f"{self._most} sessions are open, more are not kept: delete those that are done", code="overloaded",
                retry_after_s=self._ttl_s,
            )  # fmt: skip

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


def locked(model: OpenedModel, run: Generator[Any, None, Any]) -> Generator[None, None, Any]:
    """The same run with the model's lock held while it is advanced or closed."""
    try:
        while True:
            with model.lock:
                next(run)
            yield
    except StopIteration as end:
        return end.value
    finally:
        with model.lock:
            run.close()


def appending(model: OpenedModel, session: Session, step: str, after: int | None) -> Operation:
    """Commit a step. With `after`, the number of steps that the caller knows of, a repeated request commits it once.

    Raises InputError, code conflict, if other steps are committed.
    """

    def run(prefix: RunPrefix) -> Generator[None, None, StepScore]:
        done = session.steps
        if after is not None and len(done) != after:
            if len(done) == after + 1 and done[-1].text == step:
                return done[-1]
            raise InputError(
                f"the session has {len(done)} steps, the request was made after {after}: read it again", code="conflict"
            )
        scored: StepScore = yield from locked(model, session.appending(step))
        return scored

    return run


def scoring_next(model: OpenedModel, session: Session, alternatives: list[str]) -> Operation:
    """Score alternatives for the next step."""

    def run(prefix: RunPrefix) -> Generator[None, None, ScoreResult]:
        result: ScoreResult = yield from locked(model, session.scoring_next(alternatives))
        return result

    return run


def at_once(action: Any) -> Operation:
    """An operation that runs no block; its session methods take the model's lock themselves."""

    def run(prefix: RunPrefix) -> Generator[None, None, Any]:
        return action(prefix)
        yield

    return run
