"""This package: a bundle on one of its engines."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.speed.contenders import Scores
from vprm_benchmarks.speed.workload import Workload
from vprm_runtime import StepScorer
from vprm_runtime.engines.base import EngineProxy, ImageRows, no_image_rows
from vprm_runtime.execution.blocks import causal_block


class TimedEngine(EngineProxy):
    """`vision_s`: seconds that the vision encoder has taken so far."""

    vision_s = 0.0

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> ImageRows:
        started = time.perf_counter()
        embeds = super().encode_tiles(tiles)
        self.vision_s += time.perf_counter() - started
        return embeds


class BundleContender:
    """An opened bundle."""

    calls = 1
    pruned = True

    def __init__(self, name: str, scorer: StepScorer) -> None:
        self.name = name
        self._engine = TimedEngine(scorer.engine)
        self._scorer = scorer.with_engine(self._engine)

    @property
    def description(self) -> str:
        """As the engine says it."""
        return self._engine.description

    @property
    def vision_s(self) -> float:
        """Of the engine."""
        return self._engine.vision_s

    def scores(self, work: Workload) -> Scores:
        found = self._scorer.score(work.image, work.question, work.candidates, max_tiles=work.max_tiles)
        return np.array([step.score for one in found.candidates for step in one.steps], np.float64)

    def vision(self, work: Workload) -> None:
        self._engine.encode_tiles(self._tiles(work))
        self._engine.synchronize()

    def prefill(self, tokens: int) -> Callable[[], object]:
        block = causal_block([5] * tokens, 0, no_image_rows(self._scorer.manifest))
        cache = self._engine.new_cache(tokens)

        def run() -> object:
            cache.truncate(0)
            logits = self._engine.forward(block, cache)
            self._engine.synchronize()
            return logits

        return run

    def tokens(self, work: Workload) -> list[int]:
        tiles = len(self._tiles(work))
        return [len(self._scorer.prepare(work.question, [tiles], steps).ids) for steps in work.candidates]

    def _tiles(self, work: Workload) -> NDArray[np.uint8]:
        (tiles,) = self._scorer.tiles([work.image], work.max_tiles)
        return tiles
