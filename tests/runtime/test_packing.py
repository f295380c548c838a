"""Layout of candidates in blocks, on small numbers."""

from __future__ import annotations

import numpy as np

from vprm_runtime.execution.blocks import Candidate, causal_block, common_prefix_tokens, groups, packed_block
from vprm_runtime.prompt.builder import TokenisedPrompt

NO_EMBEDS = np.zeros((0, 4), np.float32)


def candidate(index: int, ids: str, scores: list[int], shared: int) -> Candidate:
    return Candidate(index, TokenisedPrompt(tuple(map(ord, ids)), tuple(scores)), shared)


def test_packed_candidates_see_their_prefix_and_themselves() -> None:
    first = candidate(0, "PQRab", [3, 4], shared=3)
    second = candidate(1, "PQxyzt", [4], shared=2)  # shares less; what follows its last score position is left out
    block = packed_block([first, second], past_tokens=3, no_embeds=NO_EMBEDS)
    assert "".join(map(chr, block.input_ids)) == "abxyz"
    assert block.position_ids.tolist() == [3, 4, 2, 3, 4]
    assert block.score_positions.tolist() == [0, 1, 4]
    expected = [
        "PPP1....",
        "PPP11...",
        "PP...1..",
        "PP...11.",
        "PP...111",
    ]
    assert block.attention_mask.tolist() == [[mark != "." for mark in row] for row in expected]


def test_causal_block_sees_everything_before_it() -> None:
    block = causal_block([7, 8], 3, NO_EMBEDS, [1])
    assert block.attention_mask.astype(int).tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert block.position_ids.tolist() == [3, 4]


def test_groups_are_bounded_and_lose_nobody() -> None:
    lengths = [5, 40, 3, 9, 3, 12]
    candidates = [candidate(i, "x" * n, [n - 1], shared=0) for i, n in enumerate(lengths)]
    made = list(groups(candidates, 16))
    assert sorted(c.index for group in made for c in group) == list(range(6))
    assert all(sum(c.new_tokens for c in group) <= 16 or len(group) == 1 for group in made)
    assert len(made) == 4  # 3+3+5, 9, 12, 40


def test_common_prefix() -> None:
    assert common_prefix_tokens([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix_tokens([1, 2], [1, 2, 3]) == 2
    assert common_prefix_tokens([], [1]) == 0
