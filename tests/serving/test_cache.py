"""What the prefix cache holds while requests come and go."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
from PIL import Image
from tests.serving.conftest import RunningServer
from tests.serving.test_faults import Gate, eventually, text_row
from tests.serving.test_score import png


def test_the_cache_keeps_within_its_bytes(
    serve: Callable[..., RunningServer], make_image: Callable[..., Image.Image]
) -> None:
    budget = 3 << 20
    started = serve(cache_bytes=budget)
    pool = started.service.scorers[0].prefixes
    for seed in range(12):
        image = base64.b64encode(png(make_image(300, 300, seed=seed))).decode()
        assert started.score({**text_row(), "image": image}).status_code == 200
        eventually(lambda: started.service.schedulers[0].load == 0)
    eventually(lambda: pool.size_bytes <= budget)
    assert pool.counters.evictions > 0
    assert started.metric("vprm_kv_cache_bytes") <= budget


def test_a_prefix_that_a_request_was_admitted_with_is_there_when_its_turn_comes(
    serve: Callable[..., RunningServer], make_image: Callable[..., Image.Image]
) -> None:
    gate = Gate()
    started = serve(gate, cache_bytes=1 << 20)
    scheduler = started.service.schedulers[0]

    def ask(seed: int, text: str) -> httpx.Response:
        image = base64.b64encode(png(make_image(300, 300, seed=seed))).decode()
        return started.score({**text_row(text), "image": image})

    assert ask(0, "One.").status_code == 200
    eventually(lambda: scheduler.load == 0)
    gate.engine.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        try:
            others = [pool.submit(ask, seed, "One.") for seed in range(1, 7)]
            eventually(lambda: len(scheduler._queue) == len(others))
            again = pool.submit(ask, 0, "Two.")
            eventually(lambda: scheduler.load == len(others) + 1)
        finally:
            gate.engine.gate.set()
        assert {other.result().headers["x-vprm-cached-tokens"] for other in others} == {"0"}
        assert int(again.result().headers["x-vprm-cached-tokens"]) > 0
    assert scheduler._pool.counters.evictions > 0
