"""The comparison itself: exact stages, units, not-a-number, inverted rankings, missing sides; with made-up data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vprm_benchmarks.parity.cases import ParityCase, built_in_cases
from vprm_benchmarks.parity.driver import Comparison, compare_sides
from vprm_benchmarks.parity.reference_side import CandidateObservation, Observation
from vprm_benchmarks.parity.stages import RankingCollector, StageCollector
from vprm_benchmarks.parity.tolerances import PRECISIONS, STAGES, TOLERANCES, Precisions, Stage, tolerance

FP32 = Precisions("fp32", "fp32")
CASE = ParityCase("case", "Q", ("a\n\nb", "c\n\nd"))


class _Side:
    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def observe(self, case: ParityCase) -> Observation:
        return self._observation


def _observation(shift: float = 0.0) -> Observation:
    logits = np.array([[1.0, -1.0], [0.5, 0.0]], dtype=np.float32) + np.float32(shift)
    candidates = [
        CandidateObservation(np.array([1, 2, 3]), np.array([1, 2]), logits, np.array([0.9, 0.6]) + shift),
        CandidateObservation(np.array([1, 2, 4]), np.array([1, 2]), logits, np.array([0.4, 0.7]) + shift),
    ]
    tiles = np.zeros((1, 4, 4, 3), np.uint8)
    embeddings = np.full((2, 3), 2.0 + shift, np.float32)
    return Observation(np.array([[1, 1]]), tiles, embeddings, candidates)


def _compare(got: Observation, precision: str = "fp32") -> dict[Stage, bool]:
    comparison = compare_sides(_Side(_observation()), _Side(got), [CASE], Precisions(precision, precision))
    assert [stage.stage for stage in comparison.stages] == list(STAGES)
    return {stage.stage: stage.passed for stage in comparison.stages}


def test_equal_sides_pass_with_zero_needed() -> None:
    comparison: Comparison = compare_sides(_Side(_observation()), _Side(_observation()), [CASE], FP32)
    assert all(stage.passed and stage.needed == 0 and stage.worst_case is None for stage in comparison.stages)
    assert comparison.candidates == 2
    assert len(comparison.scores) == 4


def test_one_wrong_integer_fails_its_stage_alone() -> None:
    got = _observation()
    got.candidates[1] = replace(got.candidates[1], token_ids=np.array([1, 2, 5]))
    assert [stage for stage, passed in _compare(got).items() if not passed] == ["token_ids"]


def test_another_shape_fails_its_stage() -> None:
    got = _observation()
    got.tiles = np.zeros((2, 4, 4, 3), np.uint8)
    assert [stage for stage, passed in _compare(got).items() if not passed] == ["tile_pixels"]


def test_floats_fail_above_and_pass_below_the_table() -> None:
    assert all(_compare(_observation(1e-6)).values())
    assert [stage for stage, passed in _compare(_observation(1e-3)).items() if not passed] == [
        "image_embeddings",
        "step_logits",
        "step_scores",
    ]
    assert all(_compare(_observation(1e-3), "fp16").values())


def test_not_a_number_never_passes() -> None:
    got = _observation()
    got.candidates[0] = replace(got.candidates[0], scores=np.array([0.9, np.nan]))
    assert not _compare(got, "w4")["step_scores"]


def test_a_side_that_stops_early_fails_with_its_error() -> None:
    got = Observation(np.array([[1, 1]]), error="no such layer")
    comparison = compare_sides(_Side(_observation()), _Side(got), [CASE], FP32)
    failed = {stage.stage: stage.problems for stage in comparison.stages if not stage.passed}
    assert list(failed) == ["tile_pixels", "token_ids"]
    assert "no such layer" in failed["tile_pixels"][0]


def test_ranking_counts_only_pairs_in_the_wrong_order() -> None:
    ranking = RankingCollector("fp32")
    ranking.add("same order", [0.1, 0.2, 0.3], [0.2, 0.3, 0.4])
    assert ranking.result().passed
    ranking.add("near tie", [0.5, 0.500001], [0.500001, 0.5])
    assert ranking.result().passed
    ranking.add("swapped", [0.1, 0.2], [0.2, 0.1])
    result = ranking.result()
    assert not result.passed
    assert result.needed == pytest.approx(0.1)
    assert result.worst_case == "swapped"


def test_integers_given_as_floats_are_refused() -> None:
    collector = StageCollector("token_ids", "fp32")
    collector.add("case", np.array([1, 2]), np.array([1.0, 2.0]))
    assert "expected integers" in collector.result().problems[0]


def test_every_precision_has_every_row_and_a_reason() -> None:
    assert {precision for _, precision in TOLERANCES} == set(PRECISIONS)
    for precision in PRECISIONS:
        for stage in STAGES:
            row = tolerance(stage, precision)
            assert row.reason
            assert row.limit == 0 or row.unit != "exact"


def test_built_in_cases_have_their_own_names_and_cover_the_ways() -> None:
    cases = built_in_cases(56)
    assert len({case.name for case in cases}) == len(cases)
    assert {len(case.images) for case in cases} == {0, 1, 2}
    assert max(len(response) for case in cases for response in case.responses if isinstance(response, tuple)) == 31


def test_scores_are_judged_by_the_coarser_graph() -> None:
    precisions = Precisions(vision="fp16", llm="fp32")
    assert precisions.of_stage("image_embeddings") == "fp16"
    assert precisions.of_stage("step_scores") == "fp16"
    assert Precisions(vision="fp16", llm="w8").of_stage("step_logits") == "w8"
