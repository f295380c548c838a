"""A session: one (images, question) whose prefix stands in the engine's cache, and the steps committed behind it.

    score(responses)          whole solutions, each against the prefix
    append(step)              commit a step: it joins what later steps can see
    score_next(alternatives)  score continuations of the committed steps, commit none
    fork()                    a second session with the same past; rows are shared, not copied
    rewind(steps)             forget committed steps

Sessions that come from one another share one cache. Each knows which rows are its own past (its branch), and the
attention mask hides all others, so any tree of continuations fits.
"""

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.engines.base import FloatArray, Int64Array, KVCache
from vprm_runtime.errors import EngineError, InputError
from vprm_runtime.execution.aggregate import aggregate_scores
from vprm_runtime.execution.blocks import Candidate, causal_block, common_prefix_tokens, groups, packed_block
from vprm_runtime.prompt.builder import Response, TokenisedPrompt, split_steps
from vprm_runtime.results import CandidateScore, ScoreResult, StepScore

if TYPE_CHECKING:
    from vprm_runtime.scorer import ScoreOptions, StepScorer


MOST_UNUSED_ROWS = 0.25  # a cache's rows that no session sees, as a part of those that one does, before others move up


@dataclass(frozen=True)
class _Branch:
    """Token ids that have been run, the cache rows that hold them, and the steps committed so far."""

    ids: tuple[int, ...]
    rows: Int64Array  # [len(ids)]
    steps: tuple[StepScore, ...]


class _SharedCache:
    """The rows of a session and all its forks."""

    def __init__(self, rows: KVCache) -> None:
        self.rows = rows
        self.sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def reclaim(self) -> None:
        """Forget rows that no living session can see: at the end always, between others once they are many.

        Branches get new row numbers then, so callers look at a branch's rows afterwards.
        """
        branches = {id(branch): branch for session in self.sessions for branch in session._branches}
        used = np.zeros(self.rows.length_tokens, np.bool_)
        for branch in branches.values():
            used[branch.rows] = True
        rows = np.flatnonzero(used)
        self.rows.truncate(int(rows[-1]) + 1 if len(rows) else 0)
        unused = self.rows.length_tokens - len(rows)
        if unused > MOST_UNUSED_ROWS * len(rows):
            self.rows.keep(rows)
            places = np.cumsum(used) - 1
            moved = {key: replace(branch, rows=places[branch.rows]) for key, branch in branches.items()}
            for session in self.sessions:
                session._branches = [moved[id(branch)] for branch in session._branches]


class Session:
    """One (images, question): made by `StepScorer.session`. Not safe for concurrent calls, nor are its forks."""

    def __init__(
        self, scorer: "StepScorer", tiles: Sequence[NDArray[np.uint8]], question: str, options: "ScoreOptions"
    ) -> None:
        self._scorer = scorer
        self._question = question
        self._options = options
        self.tiles = tuple(len(image) for image in tiles)
        prefix = tuple(scorer.prompts.prefix(question, self.tiles))
        self._check_length(len(prefix), "the question and its images take")
        embeds = scorer.engine.encode_tiles(np.concatenate(tiles)) if tiles else scorer.no_embeds
        self._cache = _SharedCache(scorer.engine.new_cache(len(prefix) + scorer.max_block_tokens))
        self._run_prefix(prefix, embeds)
        self._branches = [_Branch(prefix, np.arange(len(prefix)), ())]  # after 0, 1, 2, ... committed steps
        self._cache.sessions.add(self)

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the first step."""
        return len(self._branches[0].ids)

    @property
    def steps(self) -> tuple[StepScore, ...]:
        """The committed steps and their scores."""
        return self._branch.steps

    def score(self, responses: Sequence[Response]) -> ScoreResult:
        """Score whole responses, whatever is committed; results in input order, each alone in what it sees."""
        _check_list(responses, "responses")
        rule, max_steps = self._scorer.manifest.score_rule, self._options.max_steps
        self._cache.reclaim()
        prefix = self._branches[0]
        results: dict[int, CandidateScore] = {}
        steps: dict[int, list[str]] = {}
        candidates = []
        for index, response in enumerate(responses):
            try:
                steps[index] = split_steps(response, rule, max_steps)
                candidates.append(self._candidate(index, prefix, self._prompt(steps[index])))
            except InputError as error:
                results[index] = CandidateScore(index, None, (), str(error))
        for candidate, scores in self._run_all(candidates, prefix):
            results[candidate.index] = self._result(candidate.index, steps[candidate.index], scores)
        return ScoreResult(self.tiles, tuple(results[index] for index in range(len(responses))))

    def append(self, step: str) -> StepScore:
        """Commit a step behind the committed ones; only its tokens are run. Raises InputError where it is too long."""
        candidate = self._next_candidate(0, step)
        self._cache.reclaim()
        branch = self._branch
        start = self._cache.rows.length_tokens
        try:
            logits = self._run_one(candidate, branch)
        except EngineError:
            self._cache.rows.truncate(start)
            raise
        scored = StepScore(step, float(self._probabilities(logits)[-1]))
        rows = np.concatenate(
            [branch.rows[: candidate.shared_tokens], np.arange(start, self._cache.rows.length_tokens)]
        )
        self._branches.append(_Branch(candidate.prompt.ids[: len(rows)], rows, (*branch.steps, scored)))
        return scored

    def score_next(self, alternatives: Sequence[str]) -> ScoreResult:
        """Score alternatives for the next step, each behind the committed steps; none is committed.

        A candidate of the result is one alternative, its score the step's own.
        """
        _check_list(alternatives, "alternatives")
        results: dict[int, CandidateScore] = {}
        candidates = []
        for index, step in enumerate(alternatives):
            try:
                candidates.append(self._next_candidate(index, step))
            except InputError as error:
                results[index] = CandidateScore(index, None, (), str(error))
        self._cache.reclaim()
        for candidate, scores in self._run_all(candidates, self._branch):
            results[candidate.index] = self._result(candidate.index, [alternatives[candidate.index]], scores)
        return ScoreResult(self.tiles, tuple(results[index] for index in range(len(alternatives))))

    def fork(self) -> Self:
        """A session of its own with the same committed steps; what both share is stored once."""
        other = copy.copy(self)
        other._branches = list(self._branches)
        self._cache.sessions.add(other)
        return other

    def rewind(self, steps: int = 1) -> None:
        """Forget the last committed `steps`. Raises InputError where there are fewer."""
        if not 0 <= steps < len(self._branches):
            raise InputError(f"cannot rewind {steps} steps, {len(self._branches) - 1} are committed")
        del self._branches[len(self._branches) - steps :]

    @property
    def _branch(self) -> _Branch:
        return self._branches[-1]

    def _prompt(self, steps: Sequence[str]) -> TokenisedPrompt:
        prompt = self._scorer.prompts.build(self._question, self.tiles, steps)
        self._check_length(len(prompt.ids), "the response and its question take")
        return prompt

    def _candidate(self, index: int, branch: _Branch, prompt: TokenisedPrompt) -> Candidate:
        return Candidate(index, prompt, common_prefix_tokens(branch.ids, prompt.ids))

    def _next_candidate(self, index: int, step: str) -> Candidate:
        """The committed steps and one more, of which only the last is scored."""
        if not isinstance(step, str):
            raise InputError(f"a step is a string, got {type(step).__name__}")
        prompt = self._prompt([*(done.text for done in self.steps), step])
        return self._candidate(index, self._branch, TokenisedPrompt(prompt.ids, prompt.score_positions[-1:]))

    def _check_length(self, tokens: int, what: str) -> None:
        limit = self._scorer.manifest.model.max_positions_tokens
        if tokens > limit:
            raise InputError(
                f"{what} {tokens} tokens, the model's limit is {limit}: shorten the text or use fewer tiles"
            )

    def _run_prefix(self, prefix: Sequence[int], embeds: FloatArray) -> None:
        """Run the prefix in blocks; each takes the image rows of the image-context tokens in it."""
        size = self._scorer.max_block_tokens
        context_id = self._scorer.manifest.tokens.img_context
        expected = prefix.count(context_id)
        if expected != len(embeds):
            raise EngineError(
                f"the prompt has {expected} image tokens, the vision graph gave {len(embeds)} rows: "
                "the bundle's tokens_per_tile does not fit its vision graph; export it again"
            )
        used = 0
        for start in range(0, len(prefix), size):
            ids = prefix[start : start + size]
            wanted = ids.count(context_id)
            block = causal_block(ids, start, embeds[used : used + wanted])
            self._scorer.engine.forward(block, self._cache.rows)
            used += wanted

    def _run_all(self, candidates: Sequence[Candidate], branch: _Branch) -> list[tuple[Candidate, NDArray[np.float64]]]:
        """Step scores of all candidates behind a branch; the cache is as before afterwards."""
        past = self._cache.rows.length_tokens
        done: list[tuple[Candidate, NDArray[np.float64]]] = []
        for group in groups(candidates, self._scorer.max_block_tokens):
            try:
                if len(group) == 1:
                    logits = self._run_one(group[0], branch)
                else:
                    block = packed_block(group, past, self._scorer.no_embeds, branch.rows)
                    logits = self._scorer.engine.forward(block, self._cache.rows)
            finally:
                self._cache.rows.truncate(past)
            counts = [len(candidate.prompt.score_positions) for candidate in group]
            done += zip(group, np.split(self._probabilities(logits), np.cumsum(counts)[:-1]), strict=True)
        return done

    def _run_one(self, candidate: Candidate, branch: _Branch) -> NDArray[np.float32]:
        """One candidate, in as many blocks as it needs; its rows stay in the cache."""
        size, cache = self._scorer.max_block_tokens, self._cache.rows
        first_row, shared = cache.length_tokens, candidate.shared_tokens
        ids = candidate.prompt.ids[: shared + candidate.new_tokens]
        logits = []
        for start in range(shared, len(ids), size):
            stop = min(start + size, len(ids))
            visible = np.concatenate([branch.rows[:shared], np.arange(first_row, cache.length_tokens)])
            scored = [p - start for p in candidate.prompt.score_positions if start <= p < stop]
            block = causal_block(ids[start:stop], cache.length_tokens, self._scorer.no_embeds, scored, visible)
            logits.append(self._scorer.engine.forward(block, cache))
        return np.concatenate(logits)

    def _probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores [K] from candidate-token logits [K, C]: softmax in float64, weighted. Raises EngineError on NaN."""
        if not np.isfinite(logits).all():
            raise EngineError(
                "the LLM graph gave logits that are not finite: its precision overflows on this input; "
                "export the checkpoint as fp32"
            )
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        weights = np.array([candidate.weight for candidate in self._scorer.manifest.score_rule.candidates])
        scores: NDArray[np.float64] = shifted @ weights / shifted.sum(axis=1)
        return scores

    def _result(self, index: int, steps: Sequence[str], scores: NDArray[np.float64]) -> CandidateScore:
        step_scores = tuple(StepScore(text, float(score)) for text, score in zip(steps, scores, strict=True))
        response_score = aggregate_scores([step.score for step in step_scores], self._options.aggregate)
        return CandidateScore(index, response_score, step_scores)


def _check_list(texts: object, name: str) -> None:
    """Raise InputError on a string, which is a sequence of strings too: every character would be scored."""
    if isinstance(texts, str):
        raise InputError(f"{name} must be a list, got one string: put it into a list")
