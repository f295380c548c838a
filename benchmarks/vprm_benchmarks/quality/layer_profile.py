"""Error by layer: how far cached keys are from the reference's, in each layer.

Keys are made of each layer's normed input, so they show what has gathered in the residual stream up to there; and
unlike values they are the same function in smoothed and plain bundles.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from vprm_runtime.datasets.row import Row
from vprm_runtime.engines.base import EngineProxy, FloatArray, KVCache
from vprm_runtime.engines.host.cache import HostCache
from vprm_runtime.scorer import StepScorer

PROFILE_ROWS = 8


def layer_profile(reference: StepScorer, candidate: StepScorer, rows: Sequence[Row]) -> list[float] | None:
    """Relative error of each layer's keys, root mean square over the prefix tokens of some rows.

    None if an engine's cache cannot be read.
    """
    squares: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    for row in islice(rows, PROFILE_ROWS):
        expected, actual = _keys(reference, row), _keys(candidate, row)
        if expected is None or actual is None:
            return None
        difference = np.square(actual.astype(np.float64) - expected).sum(axis=(1, 2))
        squares.append(difference / np.square(expected.astype(np.float64)).sum(axis=(1, 2)))
    return [float(value) for value in np.sqrt(np.mean(squares, axis=0))] if squares else None


def _keys(scorer: StepScorer, row: Row) -> FloatArray | None:
    """Keys [layers, tokens, kv_width] of a row's prefix."""
    recorder = _CacheRecorder(scorer.engine)
    with scorer.with_engine(recorder).session(list(row.images), row.question, max_tiles=row.max_tiles):
        cache = recorder.cache
        return cache.rows[:, 0, : cache.length_tokens].copy() if isinstance(cache, HostCache) else None


class _CacheRecorder(EngineProxy):
    """An engine that remembers the cache it handed out last."""

    cache: KVCache | None = None

    def new_cache(self, capacity_tokens: int) -> KVCache:
        """The engine's own, remembered."""
        self.cache = super().new_cache(capacity_tokens)
        return self.cache
