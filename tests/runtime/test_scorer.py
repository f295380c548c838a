"""Scoring: sharing the prefix changes nothing, bad candidates carry their error, results keep their order."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vprm_runtime import EngineError, InputError, MissingExtraError, ScoreOptions, StepScorer, select_best_response
from vprm_runtime.engines.base import Block, EngineProxy, KVCache
from vprm_runtime.execution.aggregate import aggregate_scores
from vprm_runtime.results import CandidateScore, ScoreResult

RESPONSES = [
    "Two bars.\n\nThe red one is 4.\n\nSo 4.",
    ["Three bars.", "", "So 5."],
    " starts with a space",
    "\n\nstarts with an empty step",
    "+",
    "Two bars.\n\nThe red one is 4.\n\nSo 4.",
]
CLOSE = 2e-6  # float32 rounding of differently shaped matrix products, at test width


def step_scores(result: ScoreResult) -> list[list[float]]:
    return [[step.score for step in candidate.steps] for candidate in result.candidates]


def whole_prompt_scores(scorer: StepScorer, image: Image.Image, question: str, response: object) -> list[float]:
    """One causal pass over the whole prompt, without session, cache or packing."""
    from vprm_runtime.execution.blocks import causal_block
    from vprm_runtime.images.tiling import tile_image
    from vprm_runtime.prompt.steps import split_steps

    tiles = tile_image(image, scorer.manifest.tiling)
    prompt = scorer.prepare(question, [len(tiles)], split_steps(response, scorer.manifest.score_rule))
    block = causal_block(prompt.ids, 0, scorer.engine.encode_tiles(tiles), prompt.score_positions)
    logits = scorer.engine.forward(block, scorer.engine.new_cache(len(prompt.ids))).astype(np.float64)
    return list(1 / (1 + np.exp(logits[:, 1] - logits[:, 0])))


@pytest.mark.parametrize("max_block_tokens", [7, 33, 512])
def test_packed_and_cached_equals_one_plain_pass(
    scorer: StepScorer, make_image: Callable[..., Image.Image], max_block_tokens: int
) -> None:
    scorer = replace_block_size(scorer, max_block_tokens)
    image = make_image(120, 60)
    result = scorer.score(image, "How high is the red bar?", RESPONSES)
    assert result.tiles == (3,)
    for response, candidate in zip(RESPONSES, result.candidates, strict=True):
        expected = whole_prompt_scores(scorer, image, "How high is the red bar?", response)
        np.testing.assert_allclose([step.score for step in candidate.steps], expected, rtol=0, atol=CLOSE)
        assert candidate.score == pytest.approx(np.mean(expected), abs=CLOSE)


def replace_block_size(scorer: StepScorer, max_block_tokens: int) -> StepScorer:
    return scorer.with_engine(scorer.engine, max_block_tokens=max_block_tokens)


def test_scores_depend_on_image_question_and_steps(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    base = scorer.score(make_image(), "How many?", ["One.\n\nTwo."])
    for other in (
        scorer.score(make_image(seed=1), "How many?", ["One.\n\nTwo."]),
        scorer.score(make_image(), "How many bars?", ["One.\n\nTwo."]),
        scorer.score(make_image(), "How many?", ["Six.\n\nTwo."]),
        scorer.score(None, "How many?", ["One.\n\nTwo."]),
    ):
        assert abs(other.candidates[0].steps[1].score - base.candidates[0].steps[1].score) > 1e-4


def test_several_images_text_only_and_tile_limits(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    assert scorer.score([make_image(120, 60), make_image(60, 60)], "Which?", ["One."]).tiles == (3, 1)
    assert scorer.score([], "Which?", ["One."]).tiles == ()
    assert scorer.score(make_image(120, 60), "Which?", ["One."], max_tiles=1).tiles == (1,)


def test_one_bad_candidate_does_not_spoil_the_others(
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    alone = scorer.score(make_image(), "How many?", ["One.", "Two."])
    mixed = scorer.score(make_image(), "How many?", ["One.", "word " * 100_000, [], ["One.", 7], "Two."])  # type: ignore[list-item]
    errors = [candidate.error for candidate in mixed.candidates]
    assert errors[0] is None and errors[4] is None
    assert "tokens, the model's limit is" in str(errors[1])
    assert "no steps" in str(errors[2])
    assert "step of int" in str(errors[3])
    assert [mixed.candidates[i].score for i in (1, 2, 3)] == [None] * 3
    assert mixed.best in (0, 4)
    for ours, theirs in ((0, 0), (4, 1)):
        assert mixed.candidates[ours].score == pytest.approx(alone.candidates[theirs].score, abs=CLOSE)


def test_unusable_calls_are_refused(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    with pytest.raises(InputError, match="question is empty"):
        scorer.score(make_image(), "  ", ["One."])
    with pytest.raises(InputError, match="at least one response"):
        scorer.score(make_image(), "How many?", [])
    with pytest.raises(InputError, match="responses must be a list, got one string"):
        scorer.score(make_image(), "How many?", "One.")
    with pytest.raises(InputError, match="question must be text, got NoneType"):
        scorer.score(make_image(), None, ["One."])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="responses must be a list, got one string"):
        scorer.session(make_image(), "How many?").score("One.")
    with pytest.raises(InputError, match="max_tiles"):
        ScoreOptions(max_tiles=0)
    with pytest.raises(InputError, match="unknown aggregate"):
        ScoreOptions(aggregate="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_tiles must be between 1 and 256"):
        scorer.score(make_image(), "How many?", ["One."], max_tiles=257)
    for wrong in ("3", 2.5, True):
        with pytest.raises(InputError, match="max_steps must be at least 1, an integer"):
            scorer.score(make_image(), "How many?", ["One."], max_steps=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="max_tiles must be between 1 and 256, an integer"):
            scorer.score(make_image(), "How many?", ["One."], max_tiles=wrong)  # type: ignore[arg-type]
    assert scorer.score(make_image(), "How many?", ["One."], max_tiles=np.int64(1), max_steps=np.int64(1)).best == 0
    with pytest.raises(InputError, match="max_steps must be at least 1"):
        scorer.score(make_image(), "How many?", ["One."], max_steps=0)


def test_an_options_object_still_works_with_a_warning(
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    options = ScoreOptions(max_steps=1, max_tiles=1, aggregate="min")
    expected = scorer.score(
        make_image(120, 60), "How many?", ["One.\n\nTwo."], max_steps=1, max_tiles=1, aggregate="min"
    )
    with pytest.warns(DeprecationWarning, match="give max_tiles, max_steps and aggregate as keywords"):
        assert scorer.score(make_image(120, 60), "How many?", ["One.\n\nTwo."], options) == expected
    with pytest.warns(DeprecationWarning):
        session = scorer.session(make_image(120, 60), "How many?", options)
    assert session.score(["One.\n\nTwo."]) == expected
    with pytest.raises(TypeError, match="not both"):
        scorer.score(make_image(), "How many?", ["One."], options, max_tiles=2)


def test_results_are_sequences_and_arrays(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    result = scorer.score(make_image(), "How many?", ["One.\n\nTwo.", [], "Three."])
    assert len(result) == 3
    assert [candidate.index for candidate in result] == [0, 1, 2]
    assert result[0].step_scores.dtype == result.scores.dtype == np.float64
    np.testing.assert_array_equal(result.scores, [result[0].score, np.nan, result[2].score])
    assert result.step_scores.shape == (3, 2)
    np.testing.assert_array_equal(np.isnan(result.step_scores), [[False, False], [True, True], [False, True]])
    assert result[0].score == pytest.approx(result.step_scores[0].mean())
    assert result.best_candidate is result[result.best or 0]
    assert (result[1].code, result[0].code) == ("invalid_input", None)
    nothing = scorer.score(make_image(), "How many?", [[]])
    assert nothing.best is None
    with pytest.raises(InputError, match="no response could be scored: the response has no steps"):
        nothing.best_candidate  # noqa: B018
    assert len(repr(result)) < 400
    assert "NaN" not in repr(result)


def test_errors_have_codes(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    (too_long,) = scorer.score(make_image(), "How many?", ["word " * 100_000])
    assert too_long.code == "prompt_too_long"
    with pytest.raises(InputError) as caught:
        scorer.score(make_image(), "word " * 100_000, ["One."])
    assert caught.value.code == "prompt_too_long"
    assert EngineError("x").code == "engine"


def test_unknown_devices_and_bad_threads_are_refused(demo_bundle: Path) -> None:
    with pytest.raises(InputError, match="unknown device 'abacus'"):
        StepScorer.open(demo_bundle, "abacus")
    with pytest.raises(InputError, match="threads must be at least 1"):
        StepScorer.open(demo_bundle, threads=0)
    with pytest.raises(InputError, match="on this machine"):
        StepScorer.open(demo_bundle, threads=max(64, 4 * (os.cpu_count() or 1)) + 1)


def test_a_missing_library_is_named_by_its_extra(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, module, extra in (("cpu", "onnxruntime", "cpu"), ("openvino", "openvino", "openvino")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=rf"pip install 'vprm\[{extra}\]'"):
            StepScorer.open(demo_bundle, device)


def test_a_session_scores_again_and_again(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    session = scorer.session(make_image(), "How many?")
    first = session.score(["One.", "Two."])
    session.score(["Something else.\n\nEntirely."])
    assert session.score(["One.", "Two."]) == first


def test_logits_that_are_not_finite_are_an_error(scorer: StepScorer) -> None:
    class Overflowing(EngineProxy):
        def forward(self, block: Block, cache: KVCache) -> np.ndarray:
            return super().forward(block, cache) * np.float32("nan")

    broken = scorer.with_engine(Overflowing(scorer.engine))
    with pytest.raises(EngineError, match="not finite"):
        broken.score(None, "How many?", ["One."])


def test_a_bundle_whose_image_tokens_do_not_fit_is_an_error(
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    from vprm_runtime.prompt.builder import PromptBuilder

    prompts = scorer.prompts
    wrong = PromptBuilder.__new__(PromptBuilder)
    wrong.__dict__.update(prompts.__dict__)
    wrong._tokens_per_tile = prompts._tokens_per_tile - 1
    with pytest.raises(EngineError, match="image tokens"):
        StepScorer(replace(scorer._model, prompts=wrong)).score(make_image(), "How many?", ["One."])


def test_select_best_response_has_the_model_cards_semantics(
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    responses = ["One.", "Two.\n\nThree.", "One.", ["Four", "five"]]
    scores = [candidate.score for candidate in scorer.score(make_image(), "How many?", responses).candidates]
    pairs = select_best_response(scorer, "How many?", responses, make_image(), return_scores=True)
    assert [score for _, score in pairs] == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert select_best_response(scorer, "How many?", responses, make_image()) == [response for response, _ in pairs]
    assert len(pairs) == 4
    with pytest.raises(InputError, match="response 1 cannot be ranked"):
        select_best_response(scorer, "How many?", ["One.", []], make_image())


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", 0.5), ("min", 0.2), ("last", 0.5), ("product", 0.08), ("max", 0.8)]
)
def test_aggregates(how: str, expected: float) -> None:
    assert aggregate_scores([0.2, 0.8, 0.5], how) == pytest.approx(expected)  # type: ignore[arg-type]


def test_ranking_keeps_input_order_among_equals() -> None:
    made = [CandidateScore(i, score, ()) for i, score in enumerate([0.5, None, 0.7, 0.5, 0.7])]
    result = ScoreResult((), tuple(replace(c, error="x") if c.score is None else c for c in made))
    assert result.ranking == [2, 4, 0, 3]
    assert result.best == 2
    assert ScoreResult((), (CandidateScore(0, None, (), "x"),)).best is None
