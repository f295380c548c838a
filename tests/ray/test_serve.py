"""Replicas on Ray Serve: each prefix on one of them, and requests answered though a replica is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from vprm import Client
from vprm_demo import example
from vprm_runtime import StepScorer

pytest.importorskip("ray", reason="the extra ray is not installed")

PREFIXES = 12
EXAMPLE = example()


@pytest.fixture(scope="module")
def address(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with two replicas."""
    port = 18_765 + os.getpid() % 1000
    log = tmp_path_factory.mktemp("serve") / "log"
    run = [sys.executable, "-m", "vprm", "serve", str(demo_bundle), "--port", str(port), "--ray", "local"]
    with log.open("w") as shown:
        server = subprocess.Popen([*run, "--replicas", "2"], stderr=shown, stdout=shown)
    try:
        while "listening" not in log.read_text():
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
    finally:
        server.kill()


def ask(address: str, prefix: int, number: int) -> httpx.Response:
    """Score one response about a prefix."""
    body = {"question": f"What is {prefix} + 1?", "responses": [f"It is {number}.\n\nSo {number}."]}
    return httpx.post(f"{address}/v1/score", json=body, timeout=120)


def test_each_prefix_has_one_replica_and_a_killed_one_loses_no_request(address: str, demo_scorer: StepScorer) -> None:
    homes: dict[int, set[str]] = {prefix: set() for prefix in range(PREFIXES)}
    with ThreadPoolExecutor(PREFIXES) as pool:
        for number in range(3):
            answers = list(pool.map(lambda prefix, number=number: ask(address, prefix, number), range(PREFIXES)))
            for prefix, answer in enumerate(answers):
                assert answer.status_code == 200, answer.text
                homes[prefix].add(answer.headers["x-vprm-replica"])
        assert all(len(replicas) == 1 for replicas in homes.values())
        replicas = sorted({replica for found in homes.values() for replica in found})
        assert len(replicas) == 2
        flying = [pool.submit(ask, address, prefix, 7) for prefix in range(PREFIXES)]
        os.kill(int(replicas[0]), signal.SIGKILL)
        for prefix, future in enumerate(flying):
            answer = future.result()
            assert answer.status_code == 200, answer.text
            alone = demo_scorer.score(None, f"What is {prefix} + 1?", ["It is 7.\n\nSo 7."])
            assert np.isclose(answer.json()["results"][0]["score"], alone.scores[0], atol=1e-6)


def test_a_client_scores_an_upload_and_has_sessions(address: str, demo_scorer: StepScorer) -> None:
    truth = demo_scorer.score(EXAMPLE.image, EXAMPLE.question, EXAMPLE.responses).scores
    steps = EXAMPLE.responses[0].split("\n\n")
    with Client(address) as client:
        assert np.allclose(client.score(EXAMPLE.image, EXAMPLE.question, EXAMPLE.responses).scores, truth, atol=1e-6)
        session = client.session(EXAMPLE.image, EXAMPLE.question)
        for step in steps[:2]:
            session.append(step)
        found = [session.append(step).score for step in steps[2:]]
        wanted = [step.score for step in demo_scorer.score(EXAMPLE.image, EXAMPLE.question, [steps])[0].steps[2:]]
        assert np.allclose(found, wanted, atol=1e-6)
        missing = httpx.post(f"{address}/v1/sessions/{'0' * 32}.none/append", json={"step": "A."}, timeout=60)
        assert missing.status_code == 404
        assert missing.json()["code"] == "unknown_session"
