"""Several processes behind one address: prefixes stay in one place, and a killed one loses nobody's request."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving.test_faults import announcing_too_much, command, eventually

import vprm
from vprm_demo import example
from vprm_runtime import StepScorer
from vprm_serving import workers
from vprm_serving.metrics import Metrics
from vprm_serving.uploads import image_digest
from vprm_serving.worker_metrics import WorkerMetrics
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
    samples = metrics(front[1])
    busy = [samples[f'process_cpu_seconds_total{{worker="{number}"}}'] for number in range(2)]
    assert min(busy) > 0
    assert samples["vprm_request_success_total"] >= 6 * 4
    assert samples["vprm_e2e_request_latency_seconds_count"] == samples["vprm_request_success_total"]
    text = httpx.get(f"{front[1]}/metrics").text
    assert text.count("# TYPE vprm_kv_cache_bytes gauge") == 1


def metrics(url: str) -> dict[str, float]:
    """All samples by name and labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_counters_are_added_up_and_outlive_a_process() -> None:
    def said(requests: int) -> str:
        own = Metrics({"vprm_sessions": ("Open.", lambda: requests)}, {})
        own.success.inc(requests)
        own.failure.labels('a "b" }').inc()
        for _ in range(requests):
            own.latency.observe(0.2)
        return own.text().decode()

    def looked(both: WorkerMetrics, scraped: dict[int, tuple[str, str]]) -> dict[str, float]:
        families = text_string_to_metric_families(both.text(scraped).decode())
        return {
            f"{s.name} {s.labels.get('worker', s.labels.get('le', ''))}": s.value for f in families for s in f.samples
        }

    both = WorkerMetrics()
    first = looked(both, {0: ("a", said(3)), 1: ("b", said(4))})
    assert first["vprm_request_success_total "] == 7
    assert first["vprm_request_failure_total "] == 2
    assert first["vprm_e2e_request_latency_seconds_bucket 0.25"] == 7
    assert first["vprm_e2e_request_latency_seconds_bucket 0.1"] == 0
    assert (first["vprm_sessions 0"], first["vprm_sessions 1"]) == (3, 4)
    assert looked(both, {1: ("b", said(5))})["vprm_request_success_total "] == 8  # one is being started
    again = looked(both, {0: ("c", said(1)), 1: ("b", said(5))})
    assert again["vprm_request_success_total "] == 3 + 1 + 5
    assert not [name for name in again if "_created" in name]


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


def test_work_stops_in_the_worker_if_its_caller_leaves(front: tuple[int, str]) -> None:
    long = [f"Step {n}: the number of red shapes is {n}, and that of the blue ones is {2 * n}." for n in range(20)]
    row = {"question": "Who left?", "responses": [[*long, f"{n}."] for n in range(40)]}
    url = httpx.URL(front[1])
    ran = metrics(front[1])["vprm_prompt_tokens_total"]
    body = json.dumps(row).encode()
    with socket.create_connection((url.host, url.port or 80)) as caller:
        caller.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: metrics(front[1])["vprm_prompt_tokens_total"] > ran + 1000)
    eventually(lambda: sum(queued(front[1]).values()) == 0)
    assert metrics(front[1])["vprm_prompt_tokens_total"] - ran < 40 * 20 * 20  # it is far from done


def queued(url: str) -> dict[str, float]:
    return {name: value for name, value in metrics(url).items() if name.startswith("vprm_queue_tokens")}


def test_sigterm_under_load_answers_all_that_was_accepted(demo_bundle: Path) -> None:
    with command(demo_bundle, "--workers", "2") as (process, url), ThreadPoolExecutor(16) as pool:
        long = [f"Step {n}: it is {n}, not {n + 1}." for n in range(40)]

        def ask(number: int) -> int:
            row = {"question": f"Question {number}?", "responses": [long]}
            return httpx.post(f"{url}/v1/score", json=row, timeout=60).status_code

        pending = [pool.submit(ask, number) for number in range(16)]
        counted = ("vprm_requests_running", "vprm_requests_waiting", "vprm_request_success_total")
        eventually(lambda: sum(n for name, n in metrics(url).items() if name.startswith(counted)) >= 16)
        process.send_signal(signal.SIGTERM)
        assert [future.result() for future in pending] == [200] * 16
        assert process.wait(60) == 0


def test_a_body_announced_beyond_the_limit_is_not_waited_for(front: tuple[int, str]) -> None:
    with announcing_too_much(front[1]) as (_, answer):
        assert answer.startswith(b"HTTP/1.1 413")


def test_responses_do_not_decide_where_a_row_goes() -> None:
    first = affinity_key("/v1/score", b'{"question": "Q", "image": "a.png", "responses": ["x"], "id": 1}')
    assert first == affinity_key("/v1/score", b'{"id": 2, "image": "a.png", "responses": ["y"], "question": "Q"}')
    assert first != affinity_key("/v1/score", b'{"question": "Q", "image": "b.png", "responses": ["x"]}')
    assert affinity_key("/v1/score", b"{") != affinity_key("/v1/score", b"[")


def test_workers_that_cannot_start_end_the_server(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    (bundle / "llm.onnx.data").write_bytes(b"damaged")
    words = [sys.executable, "-m", "vprm", "serve", str(bundle), "--device", "cpu", "--workers", "2", "--port", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode != 0
    assert "before it was ready" in done.stderr
    assert not list(tmp_path.glob("vprm-serve-*"))


def test_sigterm_ends_a_server_whose_workers_are_being_started(demo_bundle: Path) -> None:
    words = [sys.executable, "-m", "vprm", "serve", str(demo_bundle), "--device", "cpu", "--workers", "2"]
    with subprocess.Popen([*words, "--port", "1"], stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: len(children(process.pid)) == 2)
        started = children(process.pid)
        for worker in started:
            os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        for worker in started:
            os.kill(worker, signal.SIGCONT)
        assert process.wait(60) != 0
        assert not [worker for worker in started if Path(f"/proc/{worker}/cmdline").exists()]


def test_a_parameter_that_is_there_twice_reaches_the_worker(front: tuple[int, str]) -> None:
    row = {"question": "Which?", "responses": ["One."]}
    answer = httpx.post(f"{front[1]}/v1/score?aggregate=min&aggregate=max", json=row)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert httpx.get(f"{front[1]}/v1/sessions/w0.a%3Fb%2Fc").json()["code"] in ("unknown_session", "unknown_address")


def test_images_are_taken_while_a_worker_is_away(front: tuple[int, str]) -> None:
    content = Path(example().image).read_bytes()
    address = f"{front[1]}/v1/images/{image_digest(content)}"
    victim = children(front[0])[0]
    os.kill(victim, signal.SIGKILL)
    for _ in range(3):
        assert httpx.put(address, content=content).status_code in (200, 201)
    eventually(lambda: httpx.get(f"{front[1]}/healthz").json()["workers"] == [True, True])
    with vprm.Client(front[1]) as client:
        for number in range(4):  # on either worker, of which one has lost the image
            assert client.score(example().image, f"Which of {number}?", ["One."]).best == 0


def test_a_worker_that_is_stuck_is_started_again(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WATCH_S", 0.5)
    command = [sys.executable, "-m", "vprm", "serve", str(demo_bundle), "--device", "cpu"]
    worker = workers.Worker(0, command, tmp_path, dict(os.environ))

    async def until_ready() -> int:
        while not await worker.is_ready():
            await asyncio.sleep(0.1)
        assert worker.process is not None
        return worker.process.pid

    async def run() -> None:
        tasks = [asyncio.create_task(worker.run()), asyncio.create_task(worker.watch())]
        first = await until_ready()
        await asyncio.sleep(3)  # one that answers is left alone
        assert worker.starts == 1
        os.kill(first, signal.SIGSTOP)
        while worker.starts == 1:
            await asyncio.sleep(0.1)
        assert await until_ready() != first
        for task in tasks:
            task.cancel()
        await worker.stop(5)

    asyncio.run(asyncio.wait_for(run(), 90))
