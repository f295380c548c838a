"""All work on the engine is counted, shared and ended: sessions', long responses' and that of requests which failed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.serving.conftest import RunningServer
from tests.serving.test_faults import Gate, eventually, text_row
from tests.serving.test_sessions import opened

LONG = [f"Step {n}: the number of red shapes is {n}, and that of the blue ones is {2 * n}." for n in range(120)]


@pytest.mark.parametrize("first", [True, False])
def test_a_reward_that_fails_leaves_no_work_and_no_tokens(serve: Callable[..., RunningServer], first: bool) -> None:
    gate = Gate()
    started = serve(gate)
    gate.engine.gate.clear()
    items = [(f"Q {n} a step.", f"Q {n}", "") for n in range(100)]
    items.insert(0 if first else 100, ("Q", "Q", '{"question": "x", "image": "blake2b:00"}'))
    query, prompts, labels = zip(*items, strict=True)
    try:
        answer = started.http.post("/get_reward", json={"query": query, "prompts": prompts, "labels": labels})
        assert answer.json()["code"] == "unknown_image"
        assert (started.service.admission.requests, started.service.admission.tokens) == (0, 0)
    finally:
        before = gate.engine.blocks
        gate.engine.gate.set()
    assert started.score(text_row()).status_code == 200
    eventually(lambda: started.service.schedulers[0].load == 0)
    assert gate.engine.blocks - before <= 1 + 2
    assert started.service.admission.tokens == 0


def test_a_request_for_rewards_has_as_many_items_as_one_for_scores(serve: Callable[..., RunningServer]) -> None:
    started = serve(limits={"max_responses": 3})
    answer = started.http.post("/get_reward", json={"query": ["Q a"] * 4, "prompts": ["Q"] * 4})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_stream_left_before_its_first_event_ends_its_work(serve: Callable[..., RunningServer]) -> None:
    gate, prepared = Gate(), threading.Event()
    started = serve(gate)
    work = started.service.intake.work

    def slowly(*given: Any) -> Any:
        assert prepared.wait(30)
        return work(*given)

    started.service.intake.work = slowly  # type: ignore[assignment]
    gate.engine.gate.clear()
    body = json.dumps({"question": "Who left?", "responses": [LONG]}).encode()
    with socket.create_connection(("127.0.0.1", int(started.url.rsplit(":", 1)[1]))) as caller:
        caller.sendall(b"POST /v1/score/stream HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: started.service.admission.requests == 1)
    eventually(lambda: started.http.get("/healthz").status_code == 200)  # the server has seen the caller leave
    prepared.set()
    try:
        eventually(lambda: started.service.admission.requests == 0)
        eventually(lambda: started.service.schedulers[0].load == 0)
    finally:
        gate.engine.gate.set()


def ran_before_another(
    started: RunningServer, gate: Gate, ask: Callable[[], httpx.Response]
) -> tuple[int, int, httpx.Response]:
    """Blocks until another's short request, which came second, is answered; blocks in all; the first answer."""
    before = gate.engine.blocks
    gate.engine.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        eventually(lambda: started.service.schedulers[0].load == 1)
        second = pool.submit(started.score, text_row(question="Who is second?"))
        eventually(lambda: started.service.schedulers[0].load == 2)
        groups = started.service.schedulers[0]._groups.values()
        (job,) = [job for group in groups for job in group.jobs if job.prefix is None and len(job.responses) == 1 and
                  job.responses[0].steps == ("One.",)]  # fmt: skip
        at: list[int] = []
        job.done.add_done_callback(lambda _: at.append(gate.engine.blocks - before))
        gate.engine.gate.set()
        assert second.result().status_code == 200
        return at[0], gate.engine.blocks - before if first.result() else 0, first.result()


def test_alternatives_of_a_session_do_not_keep_others_waiting(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate)
    name = opened(started)
    ran = started.metric("vprm_prompt_tokens_total")

    def ask() -> httpx.Response:
        return started.http.post(f"/v1/sessions/{name}/score_next", json={"alternatives": LONG * 2})

    until, all_blocks, answer = ran_before_another(started, gate, ask)
    assert answer.status_code == 200
    assert all_blocks > 25
    assert until <= 12, until
    assert started.metric("vprm_prompt_tokens_total") - ran > 240 * 10


def test_a_response_of_many_blocks_does_not_keep_others_waiting(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate, max_block_tokens=16)
    row = {"question": "Who is long?", "responses": [LONG[:30]]}
    until, all_blocks, answer = ran_before_another(started, gate, lambda: started.score(row))
    assert answer.status_code == 200
    assert all_blocks > 15
    assert until <= 12, until


def test_alternatives_are_admitted_as_responses_are(serve: Callable[..., RunningServer]) -> None:
    started = serve(limits={"max_responses": 4, "max_queue_tokens": 400})
    name = started.http.post("/v1/sessions", json={"question": "Which?"}).json()["session"]
    for alternatives in (["a"] * 5, [" ".join(LONG[:30])] * 2):
        answer = started.http.post(f"/v1/sessions/{name}/score_next", json={"alternatives": alternatives})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    answer = started.http.post(f"/v1/sessions/{name}/append", json={"step": " ".join(LONG[:40])})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert started.http.post(f"/v1/sessions/{name}/append", json={"step": "One."}).status_code == 200
    assert started.service.admission.tokens == 0


def test_sessions_opened_at_once_are_no_more_than_the_limit(serve: Callable[..., RunningServer]) -> None:
    started = serve(limits={"max_sessions": 3})
    with ThreadPoolExecutor(16) as pool:
        rows = [{"question": f"Question {n}?"} for n in range(16)]
        answers = list(pool.map(lambda row: started.http.post("/v1/sessions", json=row), rows))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 13
    assert len(started.service.sessions) == 3
    name = next(answer.json()["session"] for answer in answers if answer.status_code == 201)
    assert started.http.post(f"/v1/sessions/{name}/fork").status_code == 429
    assert started.http.delete(f"/v1/sessions/{name}").status_code == 204
    assert started.http.post("/v1/sessions", json=rows[0]).status_code == 201


def test_steps_of_sessions_take_no_more_than_the_cache(serve: Callable[..., RunningServer]) -> None:
    started = serve(cache_bytes=6 << 20)
    pool = started.service.scorers[0].prefixes
    name = started.http.post("/v1/sessions", json={"question": "Which?"}).json()["session"]
    names, statuses = [name], []
    for _ in range(40):
        for step in LONG[:4]:
            statuses.append(started.http.post(f"/v1/sessions/{names[-1]}/append", json={"step": step}).status_code)
        forked = started.http.post(f"/v1/sessions/{name}/fork")
        names.append(forked.json()["session"])
    assert set(statuses) == {200, 429}
    assert pool.size_bytes < 2 * pool.budget_bytes
    for one in names:
        assert started.http.delete(f"/v1/sessions/{one}").status_code == 204
    assert started.http.post("/v1/sessions", json={"question": "Which?"}).status_code == 201


def test_a_session_that_can_never_fit_is_told_so(serve: Callable[..., RunningServer]) -> None:
    started = serve(cache_bytes=0)
    answer = started.http.post("/v1/sessions", json={"question": "Which?"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "--cache-bytes" in answer.json()["error"]


def test_alternatives_end_when_their_caller_leaves(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate)
    name = opened(started)
    gate.engine.gate.clear()
    body = json.dumps({"alternatives": LONG * 2}).encode()
    head = f"POST /v1/sessions/{name}/score_next HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", int(started.url.rsplit(":", 1)[1]))) as caller:
        caller.sendall(head + body)
        eventually(lambda: started.service.schedulers[0].load == 1)
    before = gate.engine.blocks
    eventually(lambda: started.service.admission.requests == 0)
    gate.engine.gate.set()
    eventually(lambda: started.service.schedulers[0].load == 0)
    assert started.score(text_row()).status_code == 200
    assert gate.engine.blocks - before <= 1 + 2


def test_waiting_questions_do_not_hold_the_cache_many_times_over(serve: Callable[..., RunningServer]) -> None:
    gate = Gate()
    started = serve(gate, cache_bytes=16 << 20)  # one of the questions takes 14 MiB
    pool = started.service.scorers[0].prefixes
    most: list[int] = []
    forward = gate.engine.forward

    def watched(block: Any, cache: Any) -> Any:
        most.append(pool.size_bytes)
        return forward(block, cache)

    gate.engine.forward = watched  # type: ignore[method-assign]
    gate.engine.gate.clear()
    rows = [{"question": f"Question {n}?" + " word" * 300, "responses": [LONG[:40]] * 3} for n in range(12)]
    with ThreadPoolExecutor(12) as threads:
        pending = [threads.submit(started.score, row) for row in rows]
        eventually(lambda: started.service.schedulers[0].load == 12)
        gate.engine.gate.set()
        assert {future.result().status_code for future in pending} == {200}
    assert max(most) < 3 * pool.budget_bytes, (max(most), pool.budget_bytes)
    eventually(lambda: started.service.schedulers[0].load == 0)
    assert not started.service.schedulers[0]._groups
