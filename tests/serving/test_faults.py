"""What goes wrong with servers: full queues, failing engines, callers that leave, signals, blocks that never end."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.serving.conftest import RunningServer
from tests.serving.test_score import png

from vprm_benchmarks.serving.load import Request, burst
from vprm_runtime.engines.base import Block, Engine, EngineProxy, KVCache
from vprm_runtime.errors import EngineError


class GatedEngine(EngineProxy):
    """Blocks wait for a gate; one whose tokens contain `poison` raises."""

    def __init__(self, engine: Engine, poison: int | None = None) -> None:
        super().__init__(engine)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.blocks = 0
        self.poison = poison

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        self.entered.release()
        assert self.gate.wait(60)
        self.blocks += 1
        if self.poison is not None and self.poison in block.input_ids:
            raise EngineError("the device is on fire")
        return super().forward(block, cache)


class Gate:
    """Wraps a server's engine, and hands it out."""

    engine: GatedEngine

    def __call__(self, engine: Engine) -> Engine:
        self.engine = GatedEngine(engine)
        return self.engine


def text_row(text: str = "One.", question: str = "Which?") -> dict[str, Any]:
    return {"question": question, "responses": [text]}


def eventually(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def announcing_too_much(address: str) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection that announces a body of 100 TB and sends none, and what is answered."""
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as caller:  # below a body_timeout_s
        caller.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n")
        answer = b""
        while b"}" not in answer:
            more = caller.recv(4096)
            assert more, answer
            answer += more
        yield caller, answer


def test_a_full_queue_refuses_before_anything_is_decoded(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate, {"max_queue_tokens": 400})
    gate.engine.gate.clear()
    broken = {**text_row(), "image": base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 200).decode()}
    with ThreadPoolExecutor(100) as pool:
        pending: list[Future[httpx.Response]] = []
        try:
            # one after another: a request's guess becomes its tokens before the next one comes, and nothing leaves
            while not any(future.done() for future in pending):
                assert len(pending) < 100
                pending.append(pool.submit(started.score, text_row(f"Text {len(pending)}.", f"Q {len(pending)}?")))
                eventually(lambda: pending[-1].done() or started.service.schedulers[0].load == len(pending))
            refused = pending.pop().result(0)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert len(pending) > 1
            assert started.score(broken).status_code == 429  # it was not looked at
        finally:
            gate.engine.gate.set()
        assert {future.result().status_code for future in pending} == {200}
    assert started.service.admission.tokens == started.service.admission.requests == 0
    assert started.score(broken).status_code == 422


@pytest.mark.parametrize("keys", [(), (b"secret",)])
def test_a_body_announced_beyond_the_limit_is_not_waited_for(
    serve: Callable[..., RunningServer], tmp_path: Path, keys: tuple[bytes, ...]
) -> None:
    settings: dict[str, Any] = {}
    if keys:
        (tmp_path / "keys").write_bytes(b"\n".join(keys))
        settings["api_key_file"] = tmp_path / "keys"
    with announcing_too_much(serve(**settings).url) as (caller, answer):
        assert answer.startswith(b"HTTP/1.1 401" if keys else b"HTTP/1.1 413")
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(4096) == b""  # and the connection ends: what follows is no request


def test_what_can_never_fit_is_refused_as_such(serve: Callable[..., RunningServer]) -> None:
    started = serve(limits={"max_queue_tokens": 200, "max_body_bytes": 20_000, "max_responses": 8})
    many = started.score({"question": "Which?", "responses": ["One two three four five six seven."] * 8})
    assert (many.status_code, many.json()["code"]) == (413, "too_large")
    large = started.score(text_row("x" * 30_000))
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    several = started.score({"question": "Which?", "responses": ["a"] * 9})
    assert several.status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * 4000

    assert started.http.post("/v1/score", content=chunks()).status_code == 413
    assert started.score(text_row()).status_code == 200


def test_an_engines_exception_fails_that_group_only(
    serve: Callable[..., RunningServer], make_image: Callable[..., Image.Image]
) -> None:
    gate = Gate()
    started = serve(gate)
    gate.engine.poison = started.service.model.manifest.tokens.img_context
    gate.engine.gate.clear()
    with_image = {**text_row(), "image": base64.b64encode(png(make_image())).decode()}
    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(started.score, text_row(f"Text {n}.")) for n in range(4)]
        bad = [pool.submit(started.score, with_image) for _ in range(4)]
        eventually(lambda: started.service.admission.requests == 8)
        gate.engine.gate.set()
        assert [future.result().status_code for future in good] == [200] * 4
        for future in bad:
            answer = future.result()
            assert (answer.status_code, answer.json()["code"]) == (500, "engine")
            assert "on fire" in answer.json()["error"]
            assert "score" not in answer.text.replace("scored", "")
    gate.engine.poison = None
    assert started.score(with_image).status_code == 200
    assert started.metric('vprm_request_failure_total{reason="engine"}') == 4


def test_an_exception_between_blocks_leaves_the_prefix_as_it_was(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate)
    long = {"question": "Which?", "responses": [[f"Step {n}: it is {n}, not {n + 1}." for n in range(30)]]}
    wanted = started.score(long).json()
    rare = started.service.model.prompts.build("Which?", [], ["Ω"]).ids
    gate.engine.poison = next(i for i in rare if i not in started.service.model.prompts.prefix("Which?", []))
    poisoned = {"question": "Which?", "responses": [[f"Step {n}: it is {n}." for n in range(30)] + ["Ω"]]}
    answer = started.score(poisoned)
    gate.engine.poison = None
    assert answer.status_code == 500
    assert started.score(long).json() == wanted


def test_work_stops_within_a_block_of_a_disconnect(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate)
    long = {"question": "Who left?", "responses": [[f"Step {n}: it is {n}, not {n + 1}." for n in range(80)]]}
    gate.engine.gate.clear()
    with gate.engine.entered._cond:
        gate.engine.entered._value = 0
    with socket.create_connection(("127.0.0.1", int(started.url.rsplit(":", 1)[1]))) as connection:
        body = json.dumps(long).encode()
        connection.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert gate.engine.entered.acquire(timeout=30)
    before = gate.engine.blocks
    eventually(lambda: started.service.admission.requests == 0)
    gate.engine.gate.set()
    assert started.score(text_row()).status_code == 200  # the engine has gone on to others
    ran = gate.engine.blocks - before
    assert ran <= 1 + 2, ran  # the block that was under way, and the prefix and the response of the other request
    assert started.service.schedulers[0].load == 0


def test_a_stream_that_is_left_ends_its_work(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate)
    long = {"question": "Who left?", "responses": [[f"Step {n}: it is {n}, not {n + 1}." for n in range(80)]]}
    with started.http.stream("POST", "/v1/score/stream", json=long) as answer:
        assert b"prepared" in next(answer.iter_raw())
        gate.engine.gate.clear()
    gate.engine.gate.set()
    eventually(lambda: started.service.schedulers[0].load == 0 and started.service.admission.requests == 0)
    assert gate.engine.blocks < 20


def test_a_passed_deadline_is_an_error_and_ends_the_work(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate)
    gate.engine.gate.clear()
    pending: list[httpx.Response] = []

    def ask() -> None:
        pending.append(started.http.post("/v1/score", json=text_row(), headers={"x-vprm-timeout-ms": "50"}))

    thread = threading.Thread(target=ask)
    thread.start()
    assert gate.engine.entered.acquire(timeout=30)
    time.sleep(0.1)
    gate.engine.gate.set()
    thread.join()
    assert (pending[0].status_code, pending[0].json()["code"]) == (504, "deadline")


def test_a_stuck_block_makes_the_server_unhealthy(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate, stall_s=0.2)
    assert started.http.get("/healthz").status_code == 200
    started.service.schedulers[0].pulse._recent.clear()
    gate.engine.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(started.score, text_row())
        eventually(lambda: started.http.get("/healthz").status_code == 503)
        assert started.http.get("/readyz").status_code == 503
        assert started.metric("vprm_engine_up") == 0
        gate.engine.gate.set()
        assert pending.result().status_code == 200
    assert started.http.get("/healthz").status_code == 200


def test_many_connections_at_once_are_all_answered(server: RunningServer) -> None:
    requests = [Request.of(text_row(f"Text {n}.")) for n in range(160)]
    replies = asyncio.run(burst(int(server.url.rsplit(":", 1)[1]), requests))
    assert {reply.status for reply in replies} == {200}


def test_a_key_is_needed_for_all_but_health_and_metrics(serve: Callable[..., RunningServer], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    started = serve(api_key_file=keys)
    for path in ("/healthz", "/readyz", "/metrics", "/", "/page/page.js"):
        assert started.http.get(path).status_code == 200
    for method, path in (("POST", "/v1/score"), ("POST", "/get_reward"), ("POST", "/pooling"), ("GET", "/v1/model")):
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "first"}):
            assert started.http.request(method, path, headers=header).status_code == 401
    good = {"authorization": "Bearer second"}
    assert started.http.post("/v1/score", json=text_row(), headers=good).status_code == 200


def test_one_key_leaves_room_and_engine_to_the_others(serve: Callable[..., RunningServer], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("greedy\nmodest\n")
    gate = Gate()
    started = serve(gate, {"max_queue_tokens": 4000}, api_key_file=keys)
    gate.engine.gate.clear()

    def ask(key: str, number: int) -> httpx.Response:
        header = {"authorization": f"Bearer {key}"}
        return started.http.post("/v1/score", json=text_row(f"Text {number}.", f"{key} {number}?"), headers=header)

    order: list[int] = []
    with ThreadPoolExecutor(200) as pool:
        pending: list[Future[httpx.Response]] = []
        try:
            while not any(future.done() for future in pending):
                assert len(pending) < 190
                pending.append(pool.submit(ask, "greedy", len(pending)))
                eventually(lambda: pending[-1].done() or started.service.schedulers[0].load == len(pending))
            refused = pending.pop().result(0)
            assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
            assert 1900 < started.service.admission.tokens <= 2000
            later = pool.submit(ask, "modest", 0)
            eventually(lambda: started.service.schedulers[0].load == len(pending) + 1)
            scheduler = started.service.schedulers[0]
            for group in scheduler._groups.values():  # as the engine ends them; callers' threads come in any order
                for job in {*group.running, *group.jobs}:
                    job.done.add_done_callback(lambda _, tenant=group.tenant: order.append(tenant))
        finally:
            gate.engine.gate.set()
        assert later.result().status_code == 200
        assert {future.result().status_code for future in pending} == {200}
    assert len(order) == len(pending) + 1
    assert order.index(1) < len(order) / 2  # it came last
    assert started.service.admission.tokens == 0


@contextmanager
def command(bundle: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`vprm serve` as people start it, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "vprm", "serve", str(bundle), "--port", str(port), "--device", "cpu", *options]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: process.poll() is not None or _answers(url))
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_answers_all_that_was_accepted(demo_bundle: Path) -> None:
    with command(demo_bundle) as (process, url):
        long = [f"Step {n}: it is {n}, not {n + 1}." for n in range(40)]

        def ask(number: int) -> int:
            row = {"question": f"Question {number}?", "responses": [long]}
            return httpx.post(f"{url}/v1/score", json=row, timeout=60).status_code

        with ThreadPoolExecutor(16) as pool:
            pending = [pool.submit(ask, number) for number in range(16)]
            eventually(lambda: _accepted(url) + sum(future.done() for future in pending) >= 16)
            process.send_signal(signal.SIGTERM)
            statuses = [future.result() for future in pending]
        assert statuses == [200] * 16
        assert process.wait(30) == 0
        log = process.stderr.read() if process.stderr else ""
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["event"] for line in lines if line["event"].startswith("drain")] == ["draining", "drained"]
    finished = [line for line in lines if line["event"] == "request" and line["path"] == "/v1/score"]
    assert len(finished) == 16
    assert all(re.fullmatch(r"[0-9a-f]{16}", line["request_id"]) for line in finished)


def _accepted(url: str) -> int:
    queue = httpx.get(f"{url}/v1/model").json()["queue"]
    return int(queue["running"]) + int(queue["waiting"])


def test_a_damaged_bundle_is_not_served(demo_bundle: Path, tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    weights = bundle / "llm.onnx.data"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "vprm", "serve", str(bundle), "--port", "1"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "sha256" in done.stderr
