"""Lay candidates' new tokens out in blocks: several short ones side by side, or one long one over several blocks.

Pure layout: no engine, no text. Every candidate shares its first `shared_tokens` ids with the cached prefix; its
other ids are new. In a packed block each candidate sees the part of the prefix that it shares, and itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vprm_runtime.engines.base import Block, ImageRows, Int64Array
from vprm_runtime.prompt.builder import TokenisedPrompt

_COMPARED_AT_ONCE = 64  # tokens: a long prefix is compared in pieces, by the interpreter's own loop


@dataclass(frozen=True)
class Candidate:
    """A candidate's prompt and how many of its first ids stand in the cache already."""

    index: int
    prompt: TokenisedPrompt
    shared_tokens: int

    @property
    def new_tokens(self) -> int:
        """Number of ids that have to be run, up to the last score position: what follows it changes no score."""
        return self.prompt.score_positions[-1] + 1 - self.shared_tokens


def common_prefix_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix of two id sequences."""
    end = min(len(first), len(second))
    start = 0
    while start < end and first[start : start + _COMPARED_AT_ONCE] == second[start : start + _COMPARED_AT_ONCE]:
        start += _COMPARED_AT_ONCE
    while start < end and first[start] == second[start]:
        start += 1
    return min(start, end)


def groups(candidates: Sequence[Candidate], max_block_tokens: int) -> Iterator[list[Candidate]]:
    """Candidates, shortest first, in groups of at most `max_block_tokens` new tokens; a longer one stands alone."""
    group: list[Candidate] = []
    tokens = 0
    for candidate in sorted(candidates, key=lambda candidate: candidate.new_tokens):
        if group and tokens + candidate.new_tokens > max_block_tokens:
            yield group
            group, tokens = [], 0
        group.append(candidate)
        tokens += candidate.new_tokens
    if group:
        yield group


def packed_block(
    group: Sequence[Candidate], past_tokens: int, no_embeds: ImageRows, past_rows: Int64Array | None = None
) -> Block:
    """One block for a whole group after `past_tokens` cached rows; score positions in group and step order.

    `past_rows` are the cached rows of the group's common past, in order of its ids; None: all of them.
    """
    rows_of_past = np.arange(past_tokens) if past_rows is None else past_rows
    lengths = [candidate.new_tokens for candidate in group]
    mask = np.zeros((sum(lengths), past_tokens + sum(lengths)), np.bool_)
    ids, positions, score_positions = [], [], []
    start = 0
    for candidate, length in zip(group, lengths, strict=True):
        shared = candidate.shared_tokens
        ids.append(candidate.prompt.ids[shared : shared + length])
        positions.append(np.arange(shared, shared + length))
        score_positions += [start + position - shared for position in candidate.prompt.score_positions]
        rows = slice(start, start + length)
        mask[rows, rows_of_past[:shared]] = True
        mask[rows, past_tokens + start : past_tokens + start + length] = np.tri(length, dtype=np.bool_)
        start += length
    return Block(
        input_ids=np.concatenate(ids).astype(np.int64),
        image_embeds=no_embeds,
        position_ids=np.concatenate(positions).astype(np.int64),
        attention_mask=mask,
        score_positions=np.array(score_positions, np.int64),
    )


def causal_block(
    ids: Sequence[int],
    past_tokens: int,
    image_embeds: ImageRows,
    score_positions: Sequence[int] = (),
    past_rows: Int64Array | None = None,
) -> Block:
    """A block of consecutive tokens after `past_tokens` cached rows, each seeing its past, those before it and itself.

    `past_rows` are the cached rows of that past, in order; None: all of them. `score_positions` are rows of this block.
    """
    rows_of_past = np.arange(past_tokens) if past_rows is None else past_rows
    tokens, first_position = len(ids), len(rows_of_past)
    mask = np.zeros((tokens, past_tokens + tokens), np.bool_)
    mask[:, rows_of_past] = True
    mask[:, past_tokens:] = np.tri(tokens, dtype=np.bool_)
    return Block(
        input_ids=np.array(ids, np.int64),
        image_embeds=image_embeds,
        position_ids=np.arange(first_position, first_position + tokens, dtype=np.int64),
        attention_mask=mask,
        score_positions=np.array(score_positions, np.int64),
    )
