"""Several processes behind one address: prefixes stay in one place, and a killed one loses nobody's request."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.serving.test_faults import announcing_too_much, command, eventually

import vprm
from vprm_demo import example
from vprm_runtime import StepScorer
from vprm_serving.workers import affinity_key


@pytest.fixture(scope="module")
def front(demo_bundle: Path) -> Iterator[tuple[int, str]]:
    with command(demo_bundle, "--workers", "2") as (process, url):
        yield process.pid, url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def test_prefixes_sessions_and_images_find_their_worker(front: tuple[int, str], demo_scorer: StepScorer) -> None:
    shown = example()
    with vprm.Client(front[1]) as client:
        for number in range(6):
            question = f"Find m \\angle {number}."
            wanted = demo_scorer.score(shown.image, question, shown.responses)
            for _ in range(2):
                found = client.score(shown.image, question, shown.responses)
                assert found.scores == pytest.approx(wanted.scores, abs=1e-6)
            with client.session(shown.image, question) as session:
                session.append(shown.responses[0].split("\n\n")[0])
                with session.fork() as other:
                    assert len(other.steps) == 1
    text = httpx.get(f"{front[1]}/metrics").text
    counts = {}
    for line in text.splitlines():
        if line.startswith("vprm_request_success_total{"):
            counts[line.split('worker="')[1][0]] = float(line.split()[1])
    assert set(counts) == {"0", "1"}
    assert min(counts.values()) > 0
    assert text.count("# TYPE vprm_kv_cache_bytes gauge") == 1


def test_a_worker_that_is_killed_loses_nothing(front: tuple[int, str], demo_scorer: StepScorer) -> None:
    pid, url = front
    long = [f"Step {n}: it is {n}, not {n + 1}." for n in range(20)]
    rows = [(f"Question {n}?", [long, ["One."]]) for n in range(12)]
    with vprm.Client(url) as client, ThreadPoolExecutor(12) as pool:
        pending = [pool.submit(client.score, None, question, responses) for question, responses in rows]
        eventually(lambda: any(future.done() for future in pending))
        victim = children(pid)[0]
        os.kill(victim, signal.SIGKILL)
        for (question, responses), future in zip(rows, pending, strict=True):
            wanted = demo_scorer.score(None, question, responses).scores
            assert future.result() is not None
            assert future.result().scores == pytest.approx(wanted, abs=1e-6)
        eventually(lambda: len(children(pid)) == 2 and victim not in children(pid))
        eventually(lambda: httpx.get(f"{url}/healthz").json()["workers"] == [True, True])
        assert client.score(None, rows[0][0], rows[0][1]).best is not None


def test_a_body_announced_beyond_the_limit_is_not_waited_for(front: tuple[int, str]) -> None:
    with announcing_too_much(front[1]) as (_, answer):
        assert answer.startswith(b"HTTP/1.1 413")


def test_responses_do_not_decide_where_a_row_goes() -> None:
    first = affinity_key("/v1/score", b'{"question": "Q", "image": "a.png", "responses": ["x"], "id": 1}')
    assert first == affinity_key("/v1/score", b'{"id": 2, "image": "a.png", "responses": ["y"], "question": "Q"}')
    assert first != affinity_key("/v1/score", b'{"question": "Q", "image": "b.png", "responses": ["x"]}')
    assert affinity_key("/v1/score", b"{") != affinity_key("/v1/score", b"[")
