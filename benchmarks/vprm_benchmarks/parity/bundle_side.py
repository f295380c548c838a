"""Watch a bundle being scored from just above its engine: what is compared is what the graphs were really given.

Token ids and score positions are read back from the blocks that reach the engine, by their rotary positions, not asked
of the prompt builder. Logits come from each candidate scored alone, scores from all candidates of a case scored
together, so both ways through the scorer are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.parity.cases import ParityCase
from vprm_benchmarks.parity.reference_side import CandidateObservation, Observation
from vprm_runtime import InputError, StepScorer, VprmError
from vprm_runtime.engines.base import Block, Engine, EngineProxy, ImageRows, KVCache
from vprm_runtime.images.load import load_image
from vprm_runtime.images.tiling import tile_grid


class RecordingEngine(EngineProxy):
    """An engine that remembers what passes through it; :meth:`clear` forgets."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.tiles: list[NDArray[np.uint8]] = []
        self.embeddings: list[ImageRows] = []
        self.calls: list[tuple[Block, NDArray[np.float32]]] = []

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> ImageRows:
        """Pass on, remember both sides."""
        self.tiles.append(tiles.copy())
        embeddings = self._engine.encode_tiles(tiles)
        self.embeddings.append(embeddings)
        return embeddings

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Pass on, remember both sides."""
        logits = self._engine.forward(block, cache)
        self.calls.append((block, logits.copy()))
        return logits

    def clear(self) -> None:
        """Forget everything."""
        self.tiles, self.embeddings, self.calls = [], [], []


class BundleObserver:
    """A bundle, opened with an engine that is watched."""

    def __init__(self, scorer: StepScorer) -> None:
        self._recorder = RecordingEngine(scorer.engine)
        self._scorer = scorer.with_engine(self._recorder)

    def observe(self, case: ParityCase) -> Observation:
        observation = Observation()
        try:
            self._observe(case, observation)
        except VprmError as error:
            observation.error = f"{type(error).__name__}: {error}"
        return observation

    def _observe(self, case: ParityCase, observation: Observation) -> None:
        recorder = self._recorder
        recorder.clear()
        tiling = self._scorer.manifest.tiling.limited(case.max_tiles)
        sizes = [load_image(image).size for image in case.images]
        grids = [tile_grid(width, height, tiling) for width, height in sizes]
        observation.tile_grids = np.asarray(grids, dtype=np.int64).reshape(-1, 2)
        try:
            images: list[Any] = list(case.images)
            session = self._scorer.session(images, case.question, max_tiles=case.max_tiles)
        finally:
            if recorder.tiles:
                observation.tiles = np.concatenate(recorder.tiles)
            if recorder.embeddings:
                observation.embeddings = np.concatenate(recorder.embeddings).astype(np.float32)
        prefix = [block for block, _ in recorder.calls]
        alone = []
        for response in case.responses:
            recorder.calls = []
            self._checked(session.score([response], max_steps=case.max_steps).candidates)
            alone.append(recorder.calls)
        recorder.calls = []
        together = self._checked(session.score(list(case.responses), max_steps=case.max_steps).candidates)
        for calls, scores in zip(alone, together, strict=True):
            ids, positions = _ids_from_blocks(prefix, [block for block, _ in calls])
            logits = np.concatenate([logits for _, logits in calls])
            observation.candidates.append(CandidateObservation(ids, positions, logits, scores))

    def _checked(self, candidates: Sequence[Any]) -> list[NDArray[np.float64]]:
        for candidate in candidates:
            if candidate.error is not None:
                raise InputError(candidate.error)
        return [np.array([step.score for step in candidate.steps]) for candidate in candidates]


def _ids_from_blocks(
    prefix: Sequence[Block], candidate: Sequence[Block]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids [tokens] up to the last one that the engine saw, and score positions [K], both by rotary position."""
    last = max(int(block.position_ids.max()) for block in candidate)
    ids = np.full(last + 1, -1, dtype=np.int64)  # -1: a position that nothing was run for
    places = []
    for block in (*prefix, *candidate):
        inside = block.position_ids <= last
        ids[block.position_ids[inside]] = block.input_ids[inside]
        places.append(block.position_ids[block.score_positions])
    return ids, np.concatenate(places)
