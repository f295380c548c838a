"""Sessions: steps committed one by one score as whole responses do; forks, rewinds and kept prefixes change nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from vprm_runtime import InputError, ScoreOptions, Session, StepScorer

CLOSE = 2e-6  # float32 rounding of differently shaped matrix products, at test width
STEPS = [" starts with a space", "Two bars.", "", "The red one is 4.", "So 4."]


@pytest.fixture(params=[7, 512])
def scorer(request: pytest.FixtureRequest, random_scorer: Callable[[str], StepScorer]) -> StepScorer:
    base = random_scorer("internlm2")
    return StepScorer(base.manifest, base.prompts, base.engine, max_block_tokens=request.param)


@pytest.fixture
def session(scorer: StepScorer, picture: Callable[..., Image.Image]) -> Session:
    return scorer.session(picture(), "How high is the red bar?")


def whole(session: Session, steps: list[str]) -> list[float]:
    """Step scores of a whole response."""
    return [step.score for step in session.score([steps]).candidates[0].steps]


def cached_rows(session: Session) -> int:
    return session._cache.rows.length_tokens


def test_appended_steps_score_as_the_whole_response(session: Session) -> None:
    expected = whole(session, STEPS)
    scores = [session.append(step).score for step in STEPS]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=CLOSE)
    assert [step.text for step in session.steps] == STEPS
    np.testing.assert_allclose(
        whole(session, STEPS), expected, rtol=0, atol=CLOSE
    )  # committed steps are not in its way


def test_alternatives_score_as_the_ends_of_whole_responses(session: Session) -> None:
    session.append(STEPS[0])
    session.append(STEPS[1])
    alternatives = ["The red one is 4.", "The red one is 5, by far.", "", "The red one is 4."]
    rows = cached_rows(session)
    result = session.score_next(alternatives)
    assert cached_rows(session) == rows
    for candidate, step in zip(result.candidates, alternatives, strict=True):
        assert [scored.text for scored in candidate.steps] == [step]
        assert candidate.score == pytest.approx(whole(session, [*STEPS[:2], step])[-1], abs=CLOSE)
    assert len(session.steps) == 2


def test_forks_go_on_independently(session: Session) -> None:
    session.append("Two bars.")
    other, third = session.fork(), session.fork()
    scores = {
        session: [session.append("The red one is 4.").score],
        other: [other.append("The red one is 5, I think.").score],
        third: [],
    }
    for fork in (session, other, third):
        scores[fork].append(fork.append("So that is it.").score)
    for fork, found in scores.items():
        texts = [step.text for step in fork.steps]
        np.testing.assert_allclose(found, whole(fork, texts)[-len(found) :], rtol=0, atol=CLOSE)


def test_rewinding_and_going_on(session: Session) -> None:
    for step in STEPS:
        session.append(step)
    session.rewind(3)
    assert [step.text for step in session.steps] == STEPS[:2]
    assert session.append("Else.").score == pytest.approx(whole(session, [*STEPS[:2], "Else."])[-1], abs=CLOSE)
    session.rewind(3)
    assert session.steps == ()
    assert session.append("Two bars.").score == pytest.approx(whole(session, ["Two bars."])[0], abs=CLOSE)
    session.rewind(0)
    with pytest.raises(InputError, match="cannot rewind 2 steps, 1 are committed"):
        session.rewind(2)


def test_rows_that_nobody_sees_are_reclaimed(session: Session) -> None:
    start = cached_rows(session)
    session.append("Two bars.")
    fork = session.fork()
    fork.append("The red one is 4.")
    session.rewind()
    session.score_next(["x"])
    assert cached_rows(session) > start  # the fork still sees them
    del fork
    session.score_next(["x"])
    assert cached_rows(session) == start


def test_steps_that_cannot_be_run_leave_the_session_as_it_was(session: Session) -> None:
    session.append("Two bars.")
    rows, long = cached_rows(session), "word " * 100_000
    with pytest.raises(InputError, match="the model's limit is"):
        session.append(long)
    with pytest.raises(InputError, match="a step is a string"):
        session.append(["Two", "steps"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alternatives must be a list"):
        session.score_next("fine")
    result = session.score_next(["fine", long])
    assert result.candidates[0].error is None
    assert "the model's limit is" in str(result.candidates[1].error)
    assert cached_rows(session) == rows
    assert len(session.steps) == 1


def counting(scorer: StepScorer, prefix_cache_bytes: int) -> tuple[StepScorer, list[int]]:
    """A scorer that keeps prefixes, and the number of tiles of each call of its vision graph."""
    calls: list[int] = []

    class Counting:
        description = scorer.engine.description
        new_cache = staticmethod(scorer.engine.new_cache)
        forward = staticmethod(scorer.engine.forward)

        @staticmethod
        def encode_tiles(tiles: np.ndarray) -> np.ndarray:
            calls.append(len(tiles))
            return scorer.engine.encode_tiles(tiles)

    return StepScorer(scorer.manifest, scorer.prompts, Counting(), prefix_cache_bytes=prefix_cache_bytes), calls  # type: ignore[arg-type]


def test_kept_prefixes_are_used_by_content(scorer: StepScorer, picture: Callable[..., Image.Image], tmp_path) -> None:
    kept, calls = counting(scorer, 10**9)
    path, same = tmp_path / "a.png", tmp_path / "b.png"
    picture().save(path)
    same.write_bytes(path.read_bytes())
    first = kept.score(path, "How many?", ["One.", "Two."])
    assert kept.score(same, "How many?", ["One.", "Two."]) == first
    assert kept.score(path.read_bytes(), "How many?", ["One.", "Two."]) == first
    assert len(calls) == 1
    kept.score(path, "How many bars?", ["One."])
    kept.score(path, "How many?", ["One."], ScoreOptions(max_tiles=1))
    picture(seed=1).save(path)
    assert kept.score(path, "How many?", ["One.", "Two."]) != first
    assert len(calls) == 4


def test_kept_prefixes_hold_their_budget(scorer: StepScorer, picture: Callable[..., Image.Image]) -> None:
    one_prefix = scorer.session(picture(), "How many?").prefix_tokens * 2 * 3 * 32 * 4
    kept, calls = counting(scorer, 2 * one_prefix)
    for seed in (0, 1, 2, 2, 1, 0):
        kept.score(picture(seed=seed), "How many?", ["One."])
        assert kept._kept.size_bytes <= 2 * one_prefix
    assert len(calls) == 4
    none, calls = counting(scorer, 0)
    for _ in range(2):
        none.score(picture(), "How many?", ["One."])
    assert len(calls) == 2
    with pytest.raises(InputError, match="prefix_cache_bytes"):
        counting(scorer, -1)


def beams(session: Session, steps: int, width: int) -> list[Session]:
    """A beam search that keeps branches from anywhere in the cache: those that score in the middle."""
    live = [session]
    for number in range(steps):
        options = []
        for beam in live:
            texts = [f"Take {number}, {n} and {'more ' * (n % 3)}." for n in range(width)]
            options += [(one.score, beam, one.steps[0].text) for one in beam.score_next(texts).candidates]
        options.sort(key=lambda option: option[0])
        middle = (len(options) - width) // 2
        live = []
        for _, beam, text in options[middle : middle + width]:
            live.append(beam.fork())
            live[-1].append(text)
    return live


def test_a_long_beam_search_keeps_the_cache_bounded_and_the_scores_right(
    scorer: StepScorer, picture: Callable[..., Image.Image]
) -> None:
    session = scorer.session(picture(), "How high?")
    prefix = session.prefix_tokens
    moves = []
    keep = session._cache.rows.keep
    session._cache.rows.keep = lambda rows: (moves.append(len(rows)), keep(rows))  # type: ignore[method-assign]
    live = beams(session, steps=12, width=3)
    ends = [len(beam._branches[-1].ids) - prefix for beam in live]
    assert cached_rows(session) <= (1 + 0.25) * (prefix + sum(ends)) + max(ends)
    assert moves
    for beam in live:
        steps = [step.text for step in beam.steps]
        fresh = whole(scorer.session(picture(), "How high?"), steps)
        np.testing.assert_allclose([step.score for step in beam.steps], fresh, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(
            beam.append("So it is.").score, whole(session, [*steps, "So it is."])[-1], rtol=0, atol=CLOSE
        )
        beam.rewind(5)
        np.testing.assert_allclose(
            beam.append("Anew.").score, whole(session, [*steps[:-4], "Anew."])[-1], rtol=0, atol=CLOSE
        )


def test_rows_between_living_ones_are_reclaimed(session: Session) -> None:
    start = cached_rows(session)
    dropped, kept = session.fork(), session.fork()
    for number in range(8):
        dropped.append(f"A step that is forgotten again, number {number}, with many words in it, far more than needed.")
    kept.append("Two bars.")
    expected = whole(session, ["Two bars.", "So 2."])[-1]
    grown = cached_rows(session)
    del dropped
    assert kept.score_next(["So 2."]).candidates[0].score == pytest.approx(expected, abs=CLOSE)
    assert start < cached_rows(session) < start + 30 < grown
    assert kept.append("So 2.").score == pytest.approx(expected, abs=CLOSE)
