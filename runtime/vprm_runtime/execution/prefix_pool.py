"""Prefixes that were run and are kept: explicit life, one budget in real bytes."""

import logging
from collections import OrderedDict, deque
from collections.abc import Container, Iterable
from dataclasses import dataclass

from vprm_runtime.errors import InputError
from vprm_runtime.execution.cache_tree import Branch, CacheTree
from vprm_runtime.execution.prepare import PreparedPrefix

_LOG = logging.getLogger("vprm")


@dataclass(eq=False)
class RunPrefix:
    """A prefix in an engine's cache: its ids, its tiles per image, and the branch that holds its rows.

    `users` counts who holds it: sessions, calls under way, the pool.
    """

    question: str
    tile_counts: tuple[int, ...]
    ids: tuple[int, ...]
    tree: CacheTree
    branch: Branch
    users: int = 1

    @property
    def size_bytes(self) -> int:
        """What its cache really holds: capacity, forks and steps of sessions included."""
        return self.tree.rows.nbytes


@dataclass
class PoolCounters:
    """Since the pool was made: prefixes asked for and found, and their tokens."""

    queries: int = 0
    hits: int = 0
    query_tokens: int = 0
    hit_tokens: int = 0
    evictions: int = 0


class PrefixPool:
    """Keeps prefixes by key, least recently used go first. Not safe for threads: hold the model's lock.

    `budget_bytes` bounds the caches of all prefixes that are alive, those of sessions included: whenever one is
    released, kept ones that nobody uses go until the rest fits. What is in use stays, and may take working memory of a
    block on top. 0 keeps none.
    """

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise InputError(f"prefix_cache_bytes must not be negative, got {budget_bytes}")
        self.budget_bytes = budget_bytes
        self.counters = PoolCounters()
        self.abandoned: deque[tuple[RunPrefix, list[Branch]]] = deque()
        """What garbage collection found: holders that were never closed. `collect` releases them."""
        self.waited_for: Container[bytes] = ()
        """Keys of prefixes that somebody counts on: they are evicted after all others."""
        self._kept: OrderedDict[bytes, RunPrefix] = OrderedDict()
        self._alive: set[RunPrefix] = set()

    @property
    def size_bytes(self) -> int:
        """Real bytes of all caches that are alive, kept or in use."""
        return sum(prefix.size_bytes for prefix in self._alive)

    @property
    def used_bytes(self) -> int:
        """Real bytes of those in use, which cannot be evicted."""
        kept = set(self._kept.values())
        return sum(prefix.size_bytes for prefix in self._alive if prefix.users > (prefix in kept))

    def peek(self, key: bytes) -> RunPrefix | None:
        """The kept prefix of that key, not held: a hint, since it may be evicted. Any thread may ask."""
        return self._kept.get(key)

    def take(self, key: bytes) -> RunPrefix | None:
        """The kept prefix of that key, held once more for the caller; it becomes the last one used."""
        found = self._kept.get(key)
        if found is not None:
            self.counters.queries += 1
            self._kept.move_to_end(key)
            found.users += 1
            self.counters.hits += 1
            self.counters.hit_tokens += len(found.ids)
            self.counters.query_tokens += len(found.ids)
        return found

    def opened(self, prepared: PreparedPrefix, tree: CacheTree, branch: Branch) -> RunPrefix:
        """Register a prefix that has just been run; the caller holds it."""
        prefix = RunPrefix(prepared.question, prepared.tile_counts, prepared.ids, tree, branch)
        self._alive.add(prefix)
        return prefix

    def keep(self, key: bytes, prefix: RunPrefix) -> None:
        """Keep a prefix for later calls, once its holder releases it and if the budget has room for it then."""
        self.counters.queries += 1
        self.counters.query_tokens += len(prefix.ids)
        if self.budget_bytes and key not in self._kept:
            prefix.users += 1
            self._kept[key] = prefix

    def release(self, prefix: RunPrefix, branches: Iterable[Branch] = ()) -> None:
        """One holder less, and the branches that it had; the last one's release frees the cache at once."""
        for branch in branches:
            prefix.tree.release(branch)
        prefix.users -= 1
        if prefix.users == 0:
            self._alive.discard(prefix)
            prefix.tree.rows.release()
        else:
            prefix.tree.rest() if prefix.users == 1 else prefix.tree.reclaim()
            self.shrink()

    def collect(self) -> None:
        """Release what was abandoned."""
        while self.abandoned:
            self.release(*self.abandoned.popleft())

    def shrink(self) -> None:
        """Evict kept prefixes that nobody else holds, least recently used first, until the budget holds."""
        for key in sorted(self._kept, key=lambda key: key in self.waited_for):  # stable: by use within each kind
            if self.size_bytes <= self.budget_bytes:
                return
            prefix = self._kept.get(key)
            if prefix is not None and prefix.users == 1:
                del self._kept[key]
                self.counters.evictions += 1
                _LOG.debug("evicted a prefix of %d tokens, %d bytes", len(prefix.ids), prefix.size_bytes)
                self.release(prefix)

    def clear(self) -> None:
        """Give all kept prefixes up; what sessions hold stays theirs."""
        for key in list(self._kept):
            self.release(self._kept.pop(key))
