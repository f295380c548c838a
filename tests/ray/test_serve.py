"""Replicas on Ray Serve: each prefix on one of them, and requests answered though a replica is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from vprm import Client
from vprm_demo import example
from vprm_runtime import StepScorer
from vprm_serving.uploads import image_digest

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


def test_uploads_reach_every_replica_that_is_asked_about_them(
    address: str, demo_scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    """Images beyond what a client sends inline, in rows, in labels of rewards, and in messages."""
    image = make_image(700, 500)
    file = io.BytesIO()
    image.save(file, "PNG")
    assert len(file.getvalue()) > 100_000
    digest = image_digest(file.getvalue())
    found = set()
    with Client(address) as client:
        for number in range(60):  # until a replica that was killed is there again
            if number >= 8 and len(found) == 2:
                break
            question = f"What is in it, {number}?"
            wanted = demo_scorer.score(image, question, ["It is noise."]).scores
            assert np.allclose(client.score(image, question, ["It is noise."]).scores, wanted, atol=1e-6)
            row = {"question": question, "image": f"blake2b:{digest}", "responses": ["It is noise."]}
            answer = httpx.post(f"{address}/v1/score", json=row, timeout=60)
            found.add(answer.headers["x-vprm-replica"])
            assert np.isclose(answer.json()["results"][0]["score"], wanted[0], atol=1e-6)
            label = json.dumps({"question": question, "image": f"blake2b:{digest}"})
            body = {"query": [f"p{number} It is noise."], "prompts": [f"p{number}"], "labels": [label]}
            rewards = httpx.post(f"{address}/get_reward", json=body, timeout=60)
            assert np.allclose(rewards.json()["rewards"], wanted, atol=1e-6), rewards.text
    assert len(found) == 2
    assert httpx.head(f"{address}/v1/images/{digest}", timeout=60).status_code == 200
    missing = {"question": "Which?", "image": f"blake2b:{'0' * 64}", "responses": ["A."]}
    assert httpx.post(f"{address}/v1/score", json=missing, timeout=60).json()["code"] == "unknown_image"


def test_a_body_beyond_the_limit_is_refused_by_the_ingress(address: str) -> None:
    answer = httpx.post(f"{address}/v1/score", content=b" " * (65 << 20), timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_session_whose_replica_dies_is_lost_and_replayed(address: str, demo_scorer: StepScorer) -> None:
    """Over HTTP it is a clear error; the client sends its steps again, and the numbers go on as before."""
    steps = EXAMPLE.responses[1].split("\n\n")
    wanted = [step.score for step in demo_scorer.score(EXAMPLE.image, EXAMPLE.question, [steps])[0].steps]
    question = {"question": EXAMPLE.question}

    def replica_of(answer: httpx.Response) -> int:
        return int(answer.headers["x-vprm-replica"])

    with Client(address) as client:
        session = client.session(EXAMPLE.image, EXAMPLE.question)
        found = [session.append(step).score for step in steps[:2]]
        raw = httpx.post(f"{address}/v1/sessions", json=question, timeout=60)
        name = raw.json()["session"]
        shown = httpx.get(f"{address}/v1/sessions/{name}", timeout=60)
        assert replica_of(shown) == replica_of(raw)
        for victim in {replica_of(raw), replica_of(httpx.post(f"{address}{session._calls._path}/fork", timeout=60))}:
            os.kill(victim, signal.SIGKILL)
        lost = httpx.post(f"{address}/v1/sessions/{name}/append", json={"step": steps[0]}, timeout=120)
        assert (lost.status_code, lost.json()["code"]) in ((503, "session_lost"), (404, "unknown_session"))
        assert "steps" in lost.json()["error"]
        found += [session.append(step).score for step in steps[2:]]
        assert np.allclose(found, wanted, atol=1e-6)
        assert [step.text for step in session.steps] == steps


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
