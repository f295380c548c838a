"""Caches of all engines give up rows in the middle: what stays is what it was, wherever it moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from tests.support.fake_device import FakeDevice, fake_engine

from vprm_runtime import Bundle, StepScorer
from vprm_runtime.engines.base import Engine
from vprm_runtime.execution.blocks import causal_block

ENGINES: dict[str, Callable[[Bundle], Engine]] = {
    "ort": lambda bundle: StepScorer.open(bundle, "cpu").engine,
    "device": lambda bundle: fake_engine(bundle, FakeDevice())[0],
    "device, padded": lambda bundle: fake_engine(bundle, FakeDevice(), total_multiple=8)[0],
}


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, fp16_bundle: Bundle) -> Engine:
    return ENGINES[request.param](fp16_bundle)


@pytest.mark.parametrize(
    "rows",
    [
        [0, 1, 2, 3, 9, 10, 11, 30, 31, 39],
        list(range(5, 40)),
        list(range(39)),
        list(range(0, 40, 2)),
        [39],
        [],
    ],
)
def test_kept_rows_are_seen_as_before(engine: Engine, fp16_bundle: Bundle, rows: list[int]) -> None:
    none = np.zeros((0, fp16_bundle.manifest.model.hidden_size), np.float16)
    kept = np.array(rows, np.int64)
    cache = engine.new_cache(64)
    engine.forward(causal_block(range(5, 45), 0, none), cache)
    expected = engine.forward(causal_block(range(50, 60), 40, none, [0, 9], kept), cache)
    cache.truncate(40)
    cache.keep(kept)
    assert cache.length_tokens == len(rows)
    found = engine.forward(causal_block(range(50, 60), len(rows), none, [0, 9]), cache)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    assert cache.length_tokens == len(rows) + 10


@pytest.mark.parametrize("rows", [[0, 0], [1, 0], [-1, 2], [0, 40]])
def test_rows_that_cannot_be_kept_are_refused(engine: Engine, fp16_bundle: Bundle, rows: list[int]) -> None:
    none = np.zeros((0, fp16_bundle.manifest.model.hidden_size), np.float16)
    cache = engine.new_cache(64)
    engine.forward(causal_block(range(5, 45), 0, none), cache)
    with pytest.raises(ValueError, match="must be ascending and below 40"):
        cache.keep(np.array(rows, np.int64))
    assert cache.length_tokens == 40


def test_beams_on_every_engine(engine: Engine, fp16_bundle: Bundle, make_image: Callable[..., Image.Image]) -> None:
    plain = StepScorer.open(fp16_bundle, "cpu")
    scorer = plain.with_engine(engine, max_block_tokens=64)
    live = [scorer.session(make_image(), "How high?")]
    for number in range(6):
        grown = []
        for session in live:
            for word in ("one", "two"):
                fork = session.fork()
                fork.append(f"Take {word} of {number}.")
                grown.append(fork)
        live = grown[number % 2 :: 2][:2]
    for session in live:
        whole = scorer.score(make_image(), "How high?", [[step.text for step in session.steps]]).candidates[0]
        found = [step.score for step in session.steps]
        np.testing.assert_allclose(found, [step.score for step in whole.steps], rtol=0, atol=5e-3)
