"""Sessions over HTTP: the numbers of sessions in the process, and an end to every one of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.serving.conftest import RunningServer
from tests.serving.test_faults import Gate, eventually
from tests.serving.test_score import example_row

from vprm_demo import example
from vprm_runtime import StepScorer
from vprm_serving.uploads import image_digest


def opened(server: RunningServer, question: str = "Find m \\angle 3.") -> str:
    row = {"image": example_row()["image"], "question": question}
    answer = server.http.post("/v1/sessions", json=row)
    assert answer.status_code == 201, answer.text
    name: str = answer.json()["session"]
    return name


def test_a_search_gives_the_numbers_of_a_local_session(server: RunningServer, demo_scorer: StepScorer) -> None:
    steps = example().responses[1].split("\n\n")
    local = demo_scorer.session(example().image, example().question)
    name = opened(server)
    post = server.http.post
    for number, step in enumerate(steps[:2]):
        found = post(f"/v1/sessions/{name}/append", json={"step": step, "after": number}).json()
        assert found["score"] == pytest.approx(local.append(step).score, abs=1e-6)
    again = post(f"/v1/sessions/{name}/append", json={"step": steps[1], "after": 1})  # a retry commits nothing
    assert again.json() == found
    assert post(f"/v1/sessions/{name}/append", json={"step": "Other.", "after": 0}).status_code == 409

    alternatives = [steps[2], "So 90 - 39 = 51."]
    document = post(f"/v1/sessions/{name}/score_next", json={"alternatives": alternatives}).json()
    wanted = local.score_next(alternatives).scores.tolist()
    assert [result["score"] for result in document["results"]] == pytest.approx(wanted, abs=1e-6)

    other = post(f"/v1/sessions/{name}/fork").json()["session"]
    facts = post(f"/v1/sessions/{name}/rewind", json={"steps": 1}).json()
    assert [step["text"] for step in facts["steps"]] == steps[:1]
    scored = post(f"/v1/sessions/{other}/append", json={"step": steps[2]}).json()
    assert scored["score"] == pytest.approx(local.append(steps[2]).score, abs=1e-6)
    assert len(server.http.get(f"/v1/sessions/{other}").json()["steps"]) == 3
    for one in (name, other):
        assert server.http.delete(f"/v1/sessions/{one}").status_code == 204
        assert server.http.get(f"/v1/sessions/{one}").json()["code"] == "unknown_session"


def test_sessions_and_rows_on_one_prefix_do_not_disturb_each_other(
    server: RunningServer, demo_scorer: StepScorer
) -> None:
    """A long response is suspended between its blocks while others' work on the same prefix is due."""
    question = "Who is disturbed?"
    long = [f"Step {n}: the number of red shapes is {n}, and that of the blue ones is {2 * n}." for n in range(16)]
    with demo_scorer.session(example().image, question) as local:
        wanted_row = local.score([long])[0].step_scores.tolist()
        wanted_step = local.append("First.").score

    def row() -> list[float]:
        answer = server.score({"image": example_row()["image"], "question": question, "responses": [long]})
        return [step["score"] for step in answer.json()["results"][0]["steps"]]

    def session() -> list[float]:
        name = opened(server, question)
        score = server.http.post(f"/v1/sessions/{name}/append", json={"step": "First."}).json()["score"]
        fork = server.http.post(f"/v1/sessions/{name}/fork").json()["session"]
        server.http.post(f"/v1/sessions/{name}/rewind", json={"steps": 1})
        server.http.delete(f"/v1/sessions/{name}")
        server.http.delete(f"/v1/sessions/{fork}")
        return [score]

    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(row if n % 2 else session) for n in range(16)]
        for number, future in enumerate(pending):
            wanted = wanted_row if number % 2 else [wanted_step]
            assert future.result() == pytest.approx(wanted, abs=1e-6)


def test_sessions_end_by_time_and_are_bounded(serve: Callable[..., RunningServer]) -> None:
    started = serve(limits={"session_ttl_s": 0.0, "max_sessions": 2})
    names = [opened(started) for _ in range(2)]
    assert started.http.post("/v1/sessions", json={"question": "Q?"}).status_code == 429
    store = started.service.sessions
    for old in store.expired():
        assert old.id in names
    assert started.http.get(f"/v1/sessions/{names[0]}").status_code == 404
    assert len(store) == 0


def test_what_expires_goes_also_while_the_engine_is_stuck(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vprm_serving.service.HOUSEKEEPING_S", 0.05)
    gate = Gate()
    started = serve(gate, {"upload_ttl_s": 0.3, "session_ttl_s": 0.3})
    opened(started)
    gate.engine.gate.clear()
    content = example().image.read_bytes()
    try:
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(started.score, example_row())
            assert gate.engine.entered.acquire(timeout=30)
            eventually(lambda: len(started.service.sessions) == 0)
            assert started.http.put(f"/v1/images/{image_digest(content)}", content=content).status_code == 201
            eventually(lambda: len(started.service.uploads) == 0)
            gate.engine.gate.set()
            assert pending.result().status_code == 200
    finally:
        gate.engine.gate.set()
    eventually(lambda: started.service.schedulers[0].load == 0)


def test_what_a_caller_gets_wrong_is_no_failure_in_the_log(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = opened(server)
    assert server.http.post(f"/v1/sessions/{name}/rewind", json={"steps": 5}).status_code == 422
    assert server.http.post(f"/v1/sessions/{name}/append", json={"step": "One.", "after": 7}).status_code == 409
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
