"""The half of scoring that needs the engine. Callers hold the model's lock.

Work is done block by block: every function here is a generator that stops after each engine call, so that whoever
drives it can do something else in between, or give up.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.engines.base import ImageRows
from vprm_runtime.errors import EngineError
from vprm_runtime.execution.blocks import Candidate, causal_block, groups, packed_block
from vprm_runtime.execution.cache_tree import Branch, CacheTree
from vprm_runtime.execution.model import OpenedModel
from vprm_runtime.execution.prepare import PreparedPrefix, PreparedResponse
from vprm_runtime.execution.probabilities import probabilities, response_result
from vprm_runtime.results import CandidateScore, StepScore

Result = TypeVar("Result")


@dataclass(frozen=True)
class FirstSteps:
    """Scores of a response's first steps while the others are still to be run."""

    index: int
    steps: tuple[StepScore, ...]


def run_prefix(model: OpenedModel, prefix: PreparedPrefix) -> Generator[int, None, tuple[CacheTree, Branch]]:
    """Encode the images and run the prefix, block by block; returns its tree and its branch, retained once.

    Raises EngineError if the engine fails or the bundle's image tokens do not fit its vision graph.
    """
    engine, size = model.engine, model.max_block_tokens
    embeds: ImageRows = engine.encode_tiles(np.concatenate(prefix.tiles)) if prefix.tiles else model.no_embeds
    context_id = model.manifest.tokens.img_context
    expected = prefix.ids.count(context_id)
    if expected != len(embeds):
        raise EngineError(
            f"the prompt has {expected} image tokens, the vision graph gave {len(embeds)} rows: "
            "the bundle's tokens_per_tile does not fit its vision graph; export it again"
        )
    rows = engine.new_cache(len(prefix.ids) + size)
    tree = CacheTree(rows, size)
    used = 0
    try:
        for start in range(0, len(prefix.ids), size):
            ids = prefix.ids[start : start + size]
            wanted = ids.count(context_id)
            engine.forward(causal_block(ids, start, embeds[used : used + wanted]), rows)
            used += wanted
            yield len(ids)
    except BaseException:
        rows.release()
        raise
    return tree, tree.grown(None, 0, 0)


def run_to_end(running: Generator[Any, None, Result]) -> Result:
    """What a generator returns, nothing done between its blocks."""
    while True:
        try:
            next(running)
        except StopIteration as finished:
            result: Result = finished.value
            return result


class RunTokens:
    """Counts the tokens of each engine call of `run_candidates` from what it found."""

    def __init__(self, model: OpenedModel, ids: Sequence[int], responses: Iterable[PreparedResponse]) -> None:
        """`ids` and `responses` as for `run_candidates`."""
        self._block_tokens = model.max_block_tokens
        self._left = {r.index: r.candidate(ids).new_tokens for r in responses if r.failed is None}

    def of(self, found: Iterable[CandidateScore | FirstSteps]) -> int:
        """The tokens of the call that found this."""
        tokens = 0
        for result in found:
            left = self._left.get(result.index, 0)
            ran = left if isinstance(result, CandidateScore) else min(left, self._block_tokens)
            self._left[result.index] = left - ran
            tokens += ran
        return tokens


def run_candidates(
    model: OpenedModel,
    tree: CacheTree,
    ids: Sequence[int],
    branch: Branch,
    responses: Iterable[PreparedResponse],
) -> Generator[list[CandidateScore | FirstSteps], None, None]:
    """Score prepared responses after a branch whose ids are `ids`; yields what each engine call found.

    That is results, or the first steps of a response that takes several blocks. Responses are packed side by side,
    shortest first; the cache is as before after each block of them. Results are not in input order. If the iterator is
    closed between two engine calls, the cache is as before, too. Raises EngineError if the engine fails.
    """
    todo = {response.index: response for response in responses}
    failed = [response.failed for response in todo.values() if response.failed is not None]
    if failed:
        yield [*failed]
    candidates = [response.candidate(ids) for response in todo.values() if response.failed is None]
    past, rule = tree.rows.length_tokens, model.manifest.score_rule
    for group in groups(candidates, model.max_block_tokens):
        try:
            if len(group) == 1:
                (candidate,) = group
                found = np.zeros((0, len(rule.candidates)), np.float32)
                for logits in candidate_logits(model, tree, branch, candidate):
                    found = np.concatenate([found, logits])
                    if len(found) < len(candidate.prompt.score_positions):
                        yield [_first_steps(todo[candidate.index], probabilities(found, rule))]
            else:
                block = packed_block(group, past, model.no_embeds, branch.rows)
                found = model.engine.forward(block, tree.rows)
        finally:
            tree.rows.truncate(past)
        counts = [len(candidate.prompt.score_positions) for candidate in group]
        scores = np.split(probabilities(found, rule), np.cumsum(counts)[:-1])
        yield [
            response_result(candidate.index, todo[candidate.index].steps, step_scores, todo[candidate.index].aggregate)
            for candidate, step_scores in zip(group, scores, strict=True)
        ]


def _first_steps(response: PreparedResponse, scores: NDArray[np.float64]) -> FirstSteps:
    texts = response.steps[: len(scores)]
    return FirstSteps(
        response.index, tuple(StepScore(text, float(score)) for text, score in zip(texts, scores, strict=True))
    )


def candidate_logits(
    model: OpenedModel, tree: CacheTree, branch: Branch, candidate: Candidate
) -> Iterator[NDArray[np.float32]]:
    """One candidate, in as many blocks as it needs: logits [K, C] of each block. Its rows stay in the cache."""
    size, cache = model.max_block_tokens, tree.rows
    first_row, shared = cache.length_tokens, candidate.shared_tokens
    past_rows = branch.rows[:shared]
    ids = candidate.prompt.ids[: shared + candidate.new_tokens]
    for start in range(shared, len(ids), size):
        stop = min(start + size, len(ids))
        visible = np.concatenate([past_rows, np.arange(first_row, cache.length_tokens)])
        scored = [p - start for p in candidate.prompt.score_positions if start <= p < stop]
        block = causal_block(ids[start:stop], cache.length_tokens, model.no_embeds, scored, visible)
        yield model.engine.forward(block, cache)
