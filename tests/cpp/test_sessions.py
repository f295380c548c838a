"""Sessions of libvprm: random trees of operations beside the Python package's, and against whole scoring."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cpp.conftest import Runner, RunnerError
from tests.cpp.test_scores import TOLERANCE, assert_same, pixels
from tests.cpp.texts import WORDS

from vprm_runtime import Session, StepScorer

AsImage = Callable[..., dict[str, Any]]


def some_step(source: random.Random) -> str:
    if source.random() < 0.1:
        return source.choice(("", " ", "\n", "word " * 60))
    return " ".join(source.choice(WORDS) for _ in range(source.randrange(1, 6)))


@pytest.mark.parametrize("seed", range(4))
def test_random_trees(runner: Runner, demo_bundle: Path, as_image: AsImage, seed: int) -> None:
    source = random.Random(seed)
    block = source.choice((64, 512))
    scorer = StepScorer.open(demo_bundle, "cpu", threads=1, max_block_tokens=block)
    runner("open", bundle=str(demo_bundle), max_block_tokens=block)
    image = pixels(400, 300, seed)
    theirs: dict[str, Session] = {"0": scorer.session([image], "How many?")}
    tokens = runner("session", action="open", name="0", question="How many?", images=[as_image(image)])
    assert tokens == theirs["0"].prefix_tokens
    for number in range(40):
        name = source.choice(sorted(theirs))
        session = theirs[name]
        action = source.choice(("append", "append", "append", "score_next", "score", "fork", "rewind", "close"))
        if action == "append":
            step = some_step(source)
            score = runner("session", action=action, name=name, step=step)
            assert score == pytest.approx(session.append(step).score, abs=TOLERANCE, rel=0)
        elif action == "score_next":
            steps = [some_step(source) for _ in range(source.randrange(1, 5))]
            assert_same(runner("session", action=action, name=name, responses=steps), session.score_next(steps))
        elif action == "score":
            whole = [[some_step(source) for _ in range(source.randrange(1, 4))] for _ in range(3)]
            assert_same(runner("session", action=action, name=name, responses=whole), session.score(whole))
        elif action == "fork" and len(theirs) < 5:
            theirs[str(number + 1)] = session.fork()
            runner("session", action=action, name=name, **{"as": str(number + 1)})
        elif action == "rewind":
            steps = source.randrange(len(session.steps) + 1)
            session.rewind(steps)
            runner("session", action=action, name=name, steps=steps)
        elif action == "close" and len(theirs) > 1:
            theirs.pop(name).close()
            runner("session", action=action, name=name)
    for name, session in theirs.items():
        found = runner("session", action="steps", name=name)
        assert found == pytest.approx([step.score for step in session.steps], abs=TOLERANCE, rel=0)
        if session.steps:  # what was committed step by step equals the whole response, but for rounding
            texts = [step.text for step in session.steps]
            whole = runner("score", question="How many?", images=[as_image(image)], responses=[texts])
            scores = [step["score"] for step in whole["candidates"][0]["steps"]]
            assert scores == pytest.approx(found, abs=1e-4)


def test_handles_may_be_freed_in_any_order(runner: Runner, demo_bundle: Path) -> None:
    runner("open", bundle=str(demo_bundle))
    runner("session", action="open", name="root", question="What is 1 + 1?")
    first = runner("session", action="append", name="root", step="It is 2.")
    runner("session", action="fork", name="root", **{"as": "leaf"})
    runner("session", action="close", name="root")
    assert runner("session", action="steps", name="leaf") == [first]
    runner("session", action="rewind", name="leaf", steps=1)
    assert runner("session", action="append", name="leaf", step="It is 2.") == first


def test_what_a_session_refuses(runner: Runner, demo_bundle: Path) -> None:
    runner("open", bundle=str(demo_bundle))
    runner("session", action="open", name="s", question="What is 1 + 1?")
    with pytest.raises(RunnerError, match="cannot rewind 1 steps, 0 are committed"):
        runner("session", action="rewind", name="s", steps=1)
    with pytest.raises(RunnerError, match="the model's limit is") as found:
        runner("session", action="append", name="s", step="word " * 5000)
    assert found.value.reason == "prompt_too_long"
    with pytest.raises(RunnerError, match="give at least one response"):
        runner("session", action="score_next", name="s", responses=[])
    assert runner("session", action="steps", name="s") == []
