"""Cut a block into parts that an engine can take, and pad it to sizes that its kernels want. Pure layout."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vprm_runtime.engines.base import Block


def split_block(block: Block, max_tokens: int, max_scores: int, img_context_id: int) -> Iterator[Block]:
    """The block's tokens in order, in parts of at most `max_tokens` tokens and `max_scores` score positions.

    Each part is to run after the rows of those before it; together they compute what the whole block would, because
    no token sees a later one. Raises ValueError if one does, or if score positions are not in ascending order.
    """
    tokens = len(block.input_ids)
    if tokens <= max_tokens and len(block.score_positions) <= max_scores:
        yield block
        return
    past = block.attention_mask.shape[1] - tokens
    if np.triu(block.attention_mask[:, past:], 1).any():
        raise ValueError(f"a block of {tokens} tokens, of which some see later ones, cannot be cut: {max_tokens} fit")
    if (np.diff(block.score_positions) < 0).any():
        raise ValueError(f"score positions must ascend in a block that is cut into parts of {max_tokens} tokens")
    used_rows = 0
    for start, stop in _cuts(block, max_tokens, max_scores):
        ids = block.input_ids[start:stop]
        rows = int((ids == img_context_id).sum())
        positions = block.score_positions
        yield Block(
            input_ids=ids,
            image_embeds=block.image_embeds[used_rows : used_rows + rows],
            position_ids=block.position_ids[start:stop],
            attention_mask=block.attention_mask[start:stop, : past + stop],
            score_positions=positions[(positions >= start) & (positions < stop)] - start,
        )
        used_rows += rows


def padded_block(block: Block, multiple: int, padding_id: int) -> Block:
    """The block with tokens `padding_id` after it, so that cached and new ones together are a multiple of `multiple`.

    Padding sees only itself and nothing sees it, so all rows before it are what they were.
    """
    tokens, columns = block.attention_mask.shape
    padding = -columns % multiple
    if not padding:
        return block
    mask = np.zeros((tokens + padding, columns + padding), np.bool_)
    mask[:tokens, :columns] = block.attention_mask
    mask[tokens:, columns:] = np.eye(padding, dtype=np.bool_)
    return replace(
        block,
        input_ids=np.append(block.input_ids, np.full(padding, padding_id, np.int64)),
        position_ids=np.append(block.position_ids, np.zeros(padding, np.int64)),
        attention_mask=mask,
    )


def _cuts(block: Block, max_tokens: int, max_scores: int) -> Iterator[tuple[int, int]]:
    """Ranges of tokens, as long as both limits allow. Several score positions on one token count each."""
    tokens, positions = len(block.input_ids), block.score_positions
    start = 0
    while start < tokens:
        stop = min(start + max_tokens, tokens)
        inside = positions[(positions >= start) & (positions < stop)]
        if len(inside) > max_scores:
            stop = int(inside[max_scores])  # the first one too many begins the next part
            if stop == start:
                raise ValueError(f"{max_scores} score positions fit into one run, token {start} alone has more")
        yield start, stop
        start = stop
