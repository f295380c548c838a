"""Sessions: steps committed one by one score as whole responses do; forks, rewinds and kept prefixes change nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from vprm_runtime import InputError, Session, StepScorer
from vprm_runtime.engines.base import EngineProxy, KVCache

CLOSE = 2e-6  # float32 rounding of differently shaped matrix products, at test width
STEPS = [" starts with a space", "Two bars.", "", "The red one is 4.", "So 4."]


@pytest.fixture(params=[7, 512])
def scorer(request: pytest.FixtureRequest, random_scorer: Callable[[str], StepScorer]) -> StepScorer:
    base = random_scorer("internlm2")
    return base.with_engine(base.engine, max_block_tokens=request.param)


@pytest.fixture
def session(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> Session:
    return scorer.session(make_image(), "How high is the red bar?")


def whole(session: Session, steps: list[str]) -> list[float]:
    """Step scores of a whole response."""
    return [step.score for step in session.score([steps]).candidates[0].steps]


def cached_rows(session: Session) -> int:
    return session._prefix.tree.rows.length_tokens


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

    class Counting(EngineProxy):
        def encode_tiles(self, tiles: np.ndarray) -> np.ndarray:
            calls.append(len(tiles))
            return super().encode_tiles(tiles)

    counted = Counting(scorer.engine)
    return scorer.with_engine(counted, prefix_cache_bytes=prefix_cache_bytes), calls


def test_kept_prefixes_are_used_by_content(
    scorer: StepScorer, make_image: Callable[..., Image.Image], tmp_path
) -> None:
    kept, calls = counting(scorer, 10**9)
    path, same = tmp_path / "a.png", tmp_path / "b.png"
    make_image().save(path)
    same.write_bytes(path.read_bytes())
    first = kept.score(path, "How many?", ["One.", "Two."])
    assert kept.score(same, "How many?", ["One.", "Two."]) == first
    assert kept.score(path.read_bytes(), "How many?", ["One.", "Two."]) == first
    assert len(calls) == 1
    kept.score(path, "How many bars?", ["One."])
    kept.score(path, "How many?", ["One."], max_tiles=1)
    make_image(seed=1).save(path)
    assert kept.score(path, "How many?", ["One.", "Two."]) != first
    assert len(calls) == 4


def test_options_of_responses_do_not_run_a_prefix_again(
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    kept, calls = counting(scorer, 10**9)
    for options in ({}, {"aggregate": "min"}, {"max_steps": 1}, {"max_steps": 1, "aggregate": "last"}):
        alone = scorer.score(make_image(), "How many?", ["One.\n\nTwo."], **options)
        assert kept.score(make_image(), "How many?", ["One.\n\nTwo."], **options).scores == pytest.approx(
            alone.scores, abs=CLOSE
        )
    assert len(calls) == 1
    kept.session(make_image(), "How many?").close()
    assert len(calls) == 1
    assert (kept.prefix_cache.queries, kept.prefix_cache.hits) == (5, 4)


def test_kept_prefixes_hold_their_budget_in_real_bytes(
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    probe = scorer.with_engine(scorer.engine, prefix_cache_bytes=10**9)
    probe.score(make_image(), "How many?", ["One."])
    one_prefix = probe._pool.size_bytes
    assert one_prefix <= 1.25 * scorer.session(make_image(), "How many?").prefix_tokens * 2 * 3 * 32 * 4
    kept, calls = counting(scorer, int(2.5 * one_prefix))
    for seed in (0, 1, 2, 2, 1, 0):
        kept.score(make_image(seed=seed), "How many?", ["One."])
        assert kept._pool.size_bytes <= 2.5 * one_prefix
    assert len(calls) == 4
    assert kept.prefix_cache.evictions == 2
    kept._pool.waited_for = list(kept._pool._kept)[:1]  # 1 has not been used for longer than 0
    for seed in (2, 1):
        kept.score(make_image(seed=seed), "How many?", ["One."])
        assert kept._pool.size_bytes <= 2.5 * one_prefix
    assert len(calls) == 5
    none, calls = counting(scorer, 0)
    for _ in range(2):
        none.score(make_image(), "How many?", ["One."])
    assert len(calls) == 2
    assert none._pool.size_bytes == 0
    with pytest.raises(InputError, match="prefix_cache_bytes"):
        counting(scorer, -1)


def test_bytes_are_those_of_the_caches(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    """What the pool counts is what the engine handed out, sessions and their steps included; all goes on close."""
    caches = []

    class Watched(EngineProxy):
        def new_cache(self, capacity_tokens: int) -> KVCache:
            caches.append(super().new_cache(capacity_tokens))
            return caches[-1]

    kept = scorer.with_engine(Watched(scorer.engine), prefix_cache_bytes=10**9)
    sessions = [kept.session(make_image(seed=seed), "How many?") for seed in range(3)]
    for session in sessions:
        session.append("A long step, with many words in it, far more than are needed. " * 9)
        assert kept._pool.size_bytes == sum(cache.rows.nbytes for cache in caches)
    assert kept._pool.used_bytes == kept._pool.size_bytes
    for session in sessions:
        session.close()
    assert kept._pool.used_bytes == 0
    assert kept._pool.size_bytes == sum(cache.rows.nbytes for cache in caches) > 0
    kept._pool.clear()
    assert kept._pool.size_bytes == sum(cache.rows.nbytes for cache in caches) == 0


def test_a_closed_session_and_a_closed_scorer_are_refused(
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    with scorer.session(make_image(), "How many?") as session:
        fork = session.fork()
    assert session.is_closed
    for call in (session.fork, session.rewind, lambda: session.append("x"), lambda: session.score(["x"])):
        with pytest.raises(InputError, match="the session is closed"):
            call()
    session.close()
    assert fork.append("Two bars.").score == pytest.approx(whole(fork, ["Two bars."])[0], abs=CLOSE)
    fork.close()
    assert scorer._pool.size_bytes == 0

    closed = []

    class Closing(EngineProxy):
        def close(self) -> None:
            closed.append(True)

    with scorer.with_engine(Closing(scorer.engine), prefix_cache_bytes=10**9) as other:
        other.score(make_image(), "How many?", ["One."])
        assert "test" not in repr(other)
    assert closed == [True]
    assert other._pool.size_bytes == 0
    with pytest.raises(InputError, match="the scorer is closed"):
        other.score(make_image(), "How many?", ["One."])


def test_the_cache_shrinks_once_its_rows_are_not_needed(session: Session) -> None:
    forks = [session.fork() for _ in range(30)]
    for number, fork in enumerate(forks):
        fork.append(f"Beam {number}: " + "so many words " * 40)
    grown = session._prefix.size_bytes
    for fork in forks:
        fork.close()
    session.score_next(["x"])
    tokens = session.prefix_tokens + session._model.max_block_tokens
    assert session._prefix.size_bytes <= min(grown / 2, 2 * (tokens + 1) * 2 * 3 * 32 * 4)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, number) for number in range(count)]:
            done.result()


@pytest.mark.parametrize("budget", [0, 1 << 28, 100_000])
def test_threads_may_share_a_scorer(scorer: StepScorer, make_image: Callable[..., Image.Image], budget: int) -> None:
    """Eight threads, three prefixes, a cache that keeps all, some or none: every score is that of one thread."""
    shared = scorer.with_engine(scorer.engine, prefix_cache_bytes=budget, max_block_tokens=scorer.max_block_tokens)
    questions = ["How many?", "Which one is red?", "What is the sum of both?"]
    responses = [[f"Take {n}.", "So it is."] for n in range(4)]
    expected = {q: scorer.score(make_image(), q, responses).scores for q in questions}
    wrong: list[float] = []

    def work(number: int) -> None:
        for turn in range(9):
            question = questions[(number + turn) % 3]
            found = shared.score(make_image(), question, responses).scores
            wrong.extend(float(d) for d in np.abs(found - expected[question]) if d > CLOSE)

    in_threads(8, work)
    assert not wrong


def test_threads_may_share_a_session_and_its_forks(session: Session) -> None:
    steps = [f"Take {n}, and {'more ' * n}." for n in range(6)]
    expected = [whole(session, steps[: n + 1])[-1] for n in range(len(steps))]
    next_scores = session.score_next(steps).scores
    wrong: list[float] = []

    def work(number: int) -> None:
        for _ in range(3):
            fork = session.fork()
            found = [fork.append(step).score for step in steps]
            wrong.extend(abs(a - b) for a, b in zip(found, expected, strict=True) if abs(a - b) > CLOSE)
            fork.rewind(len(steps))
            again = fork.score_next(steps).scores
            wrong.extend(float(d) for d in np.abs(again - next_scores) if d > CLOSE)
            if number % 2:
                fork.close()

    in_threads(6, work)
    assert not wrong


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
    scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    session = scorer.session(make_image(), "How high?")
    prefix = session.prefix_tokens
    moves = []
    rows = session._prefix.tree.rows
    keep = rows.keep
    rows.keep = lambda rows: (moves.append(len(rows)), keep(rows))  # type: ignore[method-assign]
    live = beams(session, steps=12, width=3)
    ends = [len(beam._past[-1].ids) - prefix for beam in live]
    assert cached_rows(session) <= (1 + 0.25) * (prefix + sum(ends)) + max(ends)
    assert moves
    for beam in live:
        steps = [step.text for step in beam.steps]
        fresh = whole(scorer.session(make_image(), "How high?"), steps)
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


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"aggregate": ""}, {"step_separator": ""}])
def test_options_of_a_session_that_are_empty_are_refused_not_defaulted(session: Session, wrong: dict) -> None:
    with pytest.raises(InputError):
        session.score(["One.\n\nTwo."], **wrong)
