"""Run both sides over the cases and judge every stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vprm_benchmarks.parity.cases import ParityCase
from vprm_benchmarks.parity.reference_side import Observation, Observer
from vprm_benchmarks.parity.stages import RankingCollector, StageCollector, StageResult
from vprm_benchmarks.parity.tolerances import STAGES, Precisions, Stage


@dataclass(frozen=True)
class Comparison:
    """All stages over all cases, with the step scores of both sides for the plots."""

    stages: tuple[StageResult, ...]
    scores: tuple[tuple[float, float], ...]  # (reference, bundle)
    cases: int
    candidates: int
    seconds: float


def compare_sides(
    reference: Observer,
    bundle: Observer,
    cases: Iterable[ParityCase],
    precisions: Precisions,
    on_case: Callable[[ParityCase, int], None] = lambda case, number: None,
) -> Comparison:
    """Observe every case on both sides and compare what was seen, stage by stage.

    A stage after one that differs is still compared if shapes allow. A case that one side could not finish fails
    the first stage that it did not reach. ``on_case`` gets each case before it is run, and its number from 0.
    """
    started = time.perf_counter()
    collectors: dict[Stage, StageCollector] = {
        stage: StageCollector(stage, precisions.of_stage(stage)) for stage in STAGES if stage != "ranking"
    }
    ranking = RankingCollector(precisions.of_stage("ranking"))
    scores: list[tuple[float, float]] = []
    count = candidates = 0
    for case in cases:
        on_case(case, count)
        count += 1
        candidates += len(case.responses)
        wanted, got = reference.observe(case), bundle.observe(case)
        _compare_images(case.name, wanted, got, collectors)
        _compare_candidates(case.name, wanted, got, collectors)
        if len(wanted.candidates) == len(got.candidates):
            for left, right in zip(wanted.candidates, got.candidates, strict=True):
                if left.scores.shape == right.scores.shape:
                    scores.extend(zip(left.scores.tolist(), right.scores.tolist(), strict=True))
            means = [[float(one.scores.mean()) for one in side.candidates] for side in (wanted, got)]
            ranking.add(case.name, means[0], means[1])
    stages = tuple(ranking.result() if stage == "ranking" else collectors[stage].result() for stage in STAGES)
    return Comparison(stages, tuple(scores), count, candidates, time.perf_counter() - started)


def _compare_images(case: str, wanted: Observation, got: Observation, collectors: dict[Stage, StageCollector]) -> None:
    sides: tuple[tuple[Stage, object, object], ...] = (
        ("tile_grid", wanted.tile_grids, got.tile_grids),
        ("tile_pixels", wanted.tiles, got.tiles),
        ("image_embeddings", wanted.embeddings, got.embeddings),
    )
    for stage, left, right in sides:
        if left is None and right is None:
            continue
        if left is None or right is None:
            collectors[stage].fail(case, got.error or wanted.error or "seen on one side only")
            return
        collectors[stage].add(case, np.asarray(left), np.asarray(right))


def _compare_candidates(
    case: str, wanted: Observation, got: Observation, collectors: dict[Stage, StageCollector]
) -> None:
    if len(wanted.candidates) != len(got.candidates):
        reason = got.error or wanted.error or "no error given"
        collectors["token_ids"].fail(
            case, f"{len(got.candidates)} of {len(wanted.candidates)} candidates scored: {reason}"
        )
    for number, (left, right) in enumerate(zip(wanted.candidates, got.candidates, strict=False)):
        name = f"{case}#{number}"
        collectors["token_ids"].add(name, left.token_ids, right.token_ids)
        collectors["score_positions"].add(name, left.score_positions, right.score_positions)
        collectors["step_logits"].add(name, left.logits, right.logits)
        collectors["step_scores"].add(name, left.scores, right.scores)
