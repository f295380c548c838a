"""What one side, reference or bundle, makes of a case: everything that the stages compare, in plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.parity.cases import ParityCase
from vprm_benchmarks.reference import ReferenceScorer, split_steps
from vprm_benchmarks.reference.images import open_image, tile_grid, tiles_to_array


@dataclass
class CandidateObservation:
    """One candidate of K steps. Ids end with the last score position: what follows it changes no score."""

    token_ids: NDArray[np.int64]  # [last score position + 1]
    score_positions: NDArray[np.int64]  # [K], indices into token_ids
    logits: NDArray[np.float32]  # [K, C]
    scores: NDArray[np.float64]  # [K]


@dataclass
class Observation:
    """One case. ``error`` says why what follows the last field that is set could not be observed."""

    tile_grids: NDArray[np.int64] | None = None  # [images, 2]: columns, rows
    tiles: NDArray[np.uint8] | None = None  # [n, tile_px, tile_px, 3]
    embeddings: NDArray[np.float32] | None = None  # [n * tokens_per_tile, hidden]
    candidates: list[CandidateObservation] = field(default_factory=list)
    error: str | None = None


class Observer(Protocol):
    """A side of the comparison."""

    def observe(self, case: ParityCase) -> Observation:
        """Run the case; a failure is recorded in the observation, not raised."""
        ...


class ReferenceObserver:
    """The reference, in one pass per candidate."""

    def __init__(self, scorer: ReferenceScorer) -> None:
        self._scorer = scorer

    def observe(self, case: ParityCase) -> Observation:
        scorer = self._scorer
        encoded = scorer.encode_images(case.images, case.max_tiles)
        grids = []
        for image in case.images:
            rgb = open_image(image)
            most = case.max_tiles or scorer.max_tiles
            grids.append(tile_grid(rgb.width, rgb.height, scorer.tile_px, scorer.min_tiles, most))
        tiles = [tile for per_image in encoded.tiles for tile in per_image]
        observation = Observation(tile_grids=np.asarray(grids, dtype=np.int64).reshape(-1, 2))
        if encoded.embeddings is not None:
            observation.tiles = tiles_to_array(tiles)
            observation.embeddings = encoded.embeddings.float().cpu().numpy()
        candidates = [split_steps(response, case.max_steps, scorer.rule.step_joiner) for response in case.responses]
        for result in scorer.score(case.images, case.question, candidates, max_tiles=case.max_tiles):
            ids = result.token_ids[: result.score_positions[-1] + 1]
            scores = result.scores.astype(np.float64)
            observation.candidates.append(CandidateObservation(ids, result.score_positions, result.logits, scores))
        return observation
