"""Whether the engine makes progress, and how fast: what health checks, Retry-After and metrics look at."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_RECENT_BLOCKS = 64


class Pulse:
    """Written by the engine's thread, read by any."""

    def __init__(self) -> None:
        self.tokens = 0
        self.failed_responses = 0
        self.cache_bytes = 0
        self.blocks = 0
        self.busy_s = 0.0
        self.observe: Callable[[float], None] = lambda seconds: None
        """Called with the seconds of every block."""
        self._since: float | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT_BLOCKS)

    @contextmanager
    def block(self) -> Iterator[None]:
        """The engine is at work on a block."""
        started = self._since = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - started
            self._since = None
            self._recent.append(took)
            self.blocks += 1
            self.busy_s += took
            self.observe(took)

    def block_age_s(self) -> float:
        """How long the block that is being run has taken so far; 0 if none is."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def is_stalled(self, stall_s: float) -> bool:
        """Whether a block takes longer than `stall_s` and than three times any of the recent ones."""
        return self.block_age_s() > max(stall_s, 3 * max(list(self._recent), default=0.0))

    def tokens_per_s(self) -> float | None:
        """Tokens per second of work since the start; None before the first block."""
        return self.tokens / self.busy_s if self.tokens and self.busy_s else None
