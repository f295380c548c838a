"""Cached rows of one prefix and of everything that continues it, with explicit life.

    tree = CacheTree(rows)                 the rows of one prefix, engine's own memory
    branch = tree.grown(None, tokens)      rows that were appended, retained once
    tree.retain(branch) / tree.release(branch)
    tree.reclaim()                         give rows up that no retained branch sees

A branch is a value: which spans it sees. Where a span's rows are in the cache is the tree's business alone, so rows
can move without any branch knowing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from vprm_runtime.engines.base import Int64Array, KVCache

MOST_UNUSED_ROWS = 0.25
"""Compact a cache once unreferenced rows between others exceed this fraction of the referenced ones."""
MOST_SPARE_ROWS = 0.25
"""Trim the cache of a prefix that is only kept once its spare capacity exceeds this fraction of its rows."""


@dataclass(eq=False)
class _Span:
    """Rows that were appended together: the cache's rows from `start` on."""

    start: int
    tokens: int
    users: int = 0


@dataclass(frozen=True)
class Branch:
    """What one continuation of a tree sees: the first rows of each span, oldest first. Made by a `CacheTree` only."""

    _parts: tuple[tuple[_Span, int], ...] = field(repr=False)

    @property
    def tokens(self) -> int:
        """Number of tokens that the branch sees."""
        return sum(tokens for _, tokens in self._parts)

    @property
    def rows(self) -> Int64Array:
        """Their rows in the cache as it is now, int64 [tokens], in order."""
        parts = [np.arange(span.start, span.start + tokens) for span, tokens in self._parts]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def spans(self) -> Iterator[_Span]:
        """The spans, oldest first."""
        return (span for span, _ in self._parts)


class CacheTree:
    """One engine cache and who sees which of its rows. Not safe for threads: the model's lock is held around calls."""

    def __init__(self, rows: KVCache, working_tokens: int) -> None:
        """`working_tokens` is the capacity beyond its rows that work on the tree wants: a block."""
        self.rows = rows
        self._working_tokens = working_tokens
        self._spans: list[_Span] = []  # in order of their rows

    def grown(self, past: Branch | None, shared_tokens: int, start: int) -> Branch:
        """A branch, retained, of the first `shared_tokens` of `past` and all rows from `start` to the cache's end."""
        span = _Span(start, self.rows.length_tokens - start)
        self._spans.append(span)
        parts: list[tuple[_Span, int]] = []
        left = shared_tokens
        for part, tokens in past._parts if past is not None else ():
            if left:
                parts.append((part, min(tokens, left)))
                left -= min(tokens, left)
        branch = Branch((*parts, (span, span.tokens)))
        self.retain(branch)
        return branch

    def retain(self, branch: Branch) -> None:
        """Count one more user of a branch."""
        for span in branch.spans():
            span.users += 1

    def release(self, branch: Branch) -> None:
        """Count one user less; rows that nobody uses go with the next `reclaim`."""
        for span in branch.spans():
            span.users -= 1

    def reclaim(self) -> None:
        """Forget rows that no retained branch sees: at the end always, between others once they are many."""
        self._spans = [span for span in self._spans if span.users]
        last = self._spans[-1] if self._spans else None
        self.rows.truncate(last.start + last.tokens if last else 0)
        used = sum(span.tokens for span in self._spans)
        if self.rows.length_tokens - used > MOST_UNUSED_ROWS * used:
            self.rows.keep(np.concatenate([np.arange(s.start, s.start + s.tokens) for s in self._spans]))
            start = 0
            for span in self._spans:
                span.start, start = start, start + span.tokens
        if self.rows.capacity_tokens > 2 * (self.rows.length_tokens + self._working_tokens):
            self.rows.trim()

    def rest(self) -> None:
        """Hold little more memory than the rows need, until somebody works on the tree again."""
        self.reclaim()
        if self.rows.capacity_tokens > (1 + MOST_SPARE_ROWS) * self.rows.length_tokens:
            self.rows.trim()
