"""A session: one (images, question) whose prefix is in the engine's cache, and the steps committed after it.

    score(responses)          whole solutions, each against the prefix
    append(step)              commit a step: it joins what later steps can see
    score_next(alternatives)  score continuations of the committed steps, commit none
    fork()                    a second session with the same past; rows are shared, not copied
    rewind(steps)             forget committed steps
    close()                   give the cached rows back

Sessions that come from one another share one cache. Each knows which rows are its own past (its branches), and the
attention mask hides all others, so any tree of continuations fits.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from vprm_runtime.errors import InputError
from vprm_runtime.execution.aggregate import Aggregate
from vprm_runtime.execution.cache_tree import Branch
from vprm_runtime.execution.model import OpenedModel
from vprm_runtime.execution.prefix_pool import PrefixPool, RunPrefix
from vprm_runtime.execution.prepare import PreparedResponse, prepare_next_steps, prepare_responses
from vprm_runtime.execution.probabilities import probabilities
from vprm_runtime.execution.run import RunTokens, candidate_logits, run_candidates, run_to_end
from vprm_runtime.inputs import list_of
from vprm_runtime.options import ResponseOptions
from vprm_runtime.prompt.builder import Response
from vprm_runtime.results import CandidateScore, ScoreResult, StepScore


@dataclass(frozen=True)
class _Committed:
    """The past after some committed steps: its token ids, the branch that holds them, the steps with their scores."""

    ids: tuple[int, ...]
    branch: Branch
    steps: tuple[StepScore, ...]


class Session:
    """One (images, question). Threads may share it and its forks: calls are serialised. Made by `StepScorer.session`.

    Close it, or use it in a `with` statement, to give its cached rows back at once; a forgotten session gives them
    back when it is collected.
    """

    def __init__(self, model: OpenedModel, pool: PrefixPool, prefix: RunPrefix, defaults: ResponseOptions) -> None:
        self._model, self._pool, self._prefix, self._defaults = model, pool, prefix, defaults
        self._past = [_Committed(prefix.ids, prefix.branch, ())]  # after 0, 1, 2, ... committed steps
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self.steps)} steps"
        about = f"tiles {list(self.tiles)}, {self.prefix_tokens} prefix tokens"
        return f"<Session {self._prefix.question[:40]!r}: {about}, {state}>"

    @property
    def tiles(self) -> tuple[int, ...]:
        """Number of tiles of each image, thumbnail included."""
        return self._prefix.tile_counts

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the first step."""
        return len(self._prefix.ids)

    @property
    def steps(self) -> tuple[StepScore, ...]:
        """The committed steps and their scores."""
        return self._past[-1].steps

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def score(
        self,
        responses: Sequence[Response],
        *,
        max_steps: int | None = None,
        aggregate: Aggregate | None = None,
        step_separator: str | None = None,
        drop_empty_steps: bool = False,
    ) -> ScoreResult:
        """Score whole responses against the prefix, whatever is committed.

        Args:
            responses: each a string, split into steps on blank lines, or a list of steps; at least one.
            max_steps: join consecutive steps so that a response has at most this many (default: no limit).
            aggregate: how step scores become a response score (default: mean).
            step_separator: split strings here (default: at blank lines, as the model's own code does).
            drop_empty_steps: leave out steps without text.

        Returns:
            One result per response, in input order; a response that cannot be scored carries its error.

        Raises:
            InputError: `responses` is one string, or an option is out of range.
            EngineError: the engine failed.
        """
        texts = list_of(responses, "responses")
        before = self._defaults
        how = ResponseOptions(
            before.max_steps if max_steps is None else max_steps,
            before.aggregate if aggregate is None else aggregate,
            before.step_separator if step_separator is None else step_separator,
            drop_empty_steps or before.drop_empty_steps,
        )
        prepared = prepare_responses(self._model, self._prefix.question, self.tiles, texts, how)
        with self._model.lock:
            return run_to_end(self._running(prepared, self._past[0]))

    def append(self, step: str) -> StepScore:
        """Commit a step after the committed ones; only its tokens are run.

        Args:
            step: the step's text.

        Returns:
            The step with its score.

        Raises:
            InputError: the step is not text, or too long with what is before it.
            EngineError: the engine failed; nothing was committed.
        """
        with self._model.lock:
            return run_to_end(self.appending(step))

    def appending(self, step: str) -> Generator[int, None, StepScore]:
        """`append`, yielding the tokens of each engine call; closed before its end, it commits nothing.

        For schedulers: hold the model's lock while advancing it, and start nothing else on sessions that come from
        one another, or on their prefix, before it ends.

        Args:
            step: as for `append`.

        Returns:
            A generator that returns what `append` returns.

        Raises:
            InputError: as `append`.
            EngineError: as `append`.
        """
        self._check_open()
        (prepared,) = prepare_next_steps(self._model, self._prefix.question, self.tiles, self.steps, [step])
        if prepared.failed is not None:
            raise InputError(prepared.failed.error or "", code=prepared.failed.code)
        tree, past = self._prefix.tree, self._past[-1]
        tree.reclaim()
        candidate = prepared.candidate(past.ids)
        start = before = tree.rows.length_tokens
        logits = np.zeros((0, len(self._model.manifest.score_rule.candidates)), np.float32)
        try:
            for found in candidate_logits(self._model, tree, past.branch, candidate):
                logits = np.concatenate([logits, found])
                yield tree.rows.length_tokens - before
                before = tree.rows.length_tokens
            score = float(probabilities(logits, self._model.manifest.score_rule)[-1])
        except BaseException:
            tree.rows.truncate(start)
            raise
        branch = tree.grown(past.branch, candidate.shared_tokens, start)
        scored = StepScore(prepared.steps[0], score)
        self._past.append(_Committed(candidate.prompt.ids[: branch.tokens], branch, (*past.steps, scored)))
        return scored

    def score_next(self, alternatives: Sequence[str]) -> ScoreResult:
        """Score alternatives for the next step, each after the committed steps; none is committed.

        Args:
            alternatives: texts of steps, at least one.

        Returns:
            One result per alternative, in input order, its score the step's own.

        Raises:
            InputError: `alternatives` is one string.
            EngineError: the engine failed.
        """
        texts = list_of(alternatives, "alternatives")
        with self._model.lock:
            return run_to_end(self.scoring_next(texts))

    def scoring_next(self, alternatives: Sequence[str]) -> Generator[int, None, ScoreResult]:
        """`score_next`, yielding the tokens of each engine call. For schedulers, as `appending` is.

        Args:
            alternatives: as for `score_next`.

        Returns:
            A generator that returns what `score_next` returns.
        """
        done = self.steps
        prepared = prepare_next_steps(self._model, self._prefix.question, self.tiles, done, alternatives)
        return (yield from self._running(prepared, self._past[-1]))

    def fork(self) -> Self:
        """A session of its own with the same committed steps; what both share is stored once."""
        with self._model.lock:
            self._check_open()
            other = type(self)(self._model, self._pool, self._prefix, self._defaults)
            self._prefix.users += 1
            other._past = list(self._past)
            for committed in self._past[1:]:
                self._prefix.tree.retain(committed.branch)
            return other

    def rewind(self, steps: int = 1) -> None:
        """Forget the last committed steps.

        Args:
            steps: how many.

        Raises:
            InputError: fewer are committed.
        """
        with self._model.lock:
            self._check_open()
            if not 0 <= steps < len(self._past):
                raise InputError(f"cannot rewind {steps} steps, {len(self._past) - 1} are committed")
            for committed in self._past[len(self._past) - steps :]:
                self._prefix.tree.release(committed.branch)
            del self._past[len(self._past) - steps :]
            self._prefix.tree.reclaim()

    def close(self) -> None:
        """Give the cached rows back; forks keep theirs. A second call does nothing."""
        with self._model.lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._pool.release(self._prefix, self._branches())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True):
            return
        self._pool.abandoned.append((self._prefix, self._branches()))
        if self._model.lock.acquire(blocking=False):  # else whoever holds it is at work on cached rows
            try:
                self._pool.collect()
            finally:
                self._model.lock.release()

    def _branches(self) -> list[Branch]:
        return [committed.branch for committed in self._past[1:]]

    def _running(self, prepared: Sequence[PreparedResponse], past: _Committed) -> Generator[int, None, ScoreResult]:
        self._check_open()
        self._prefix.tree.reclaim()
        results: list[CandidateScore] = []
        tokens = RunTokens(self._model, past.ids, prepared)
        for found in run_candidates(self._model, self._prefix.tree, past.ids, past.branch, prepared):
            results += [result for result in found if isinstance(result, CandidateScore)]
            yield tokens.of(found)
        return ScoreResult(self.tiles, tuple(sorted(results, key=lambda result: result.index)))

    def _check_open(self) -> None:
        self._pool.collect()
        if self._is_closed:
            raise InputError("the session is closed: open another one with StepScorer.session")
