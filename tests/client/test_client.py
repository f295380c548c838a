"""The clients: code moves between the process and a server by one line, and a failure is never a number."""

from __future__ import annotations

import asyncio
import base64
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import RunningServer, running

import vprm
from vprm_client.asynchronous import AsyncRemoteSession
from vprm_client.client import RemoteSession
from vprm_demo import example
from vprm_runtime import EngineError, InputError, ServerError, StepScorer
from vprm_serving.service import Service
from vprm_serving.settings import Settings


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[RunningServer]:
    with running(Service(Settings(bundle=demo_bundle))) as started:
        yield started


def test_score_is_the_scorers_own(
    server: RunningServer, demo_scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    shown = example()
    with vprm.Client(server.url) as client:
        content = shown.image.read_bytes()
        several = [make_image(500, 300), np.array(make_image(40, 30))]
        for images in (shown.image, content, several, None, {"bytes": content}, base64.b64encode(content).decode()):
            remote = client.score(images, shown.question, shown.responses, max_steps=3, aggregate="min")
            local = demo_scorer.score(images, shown.question, shown.responses, max_steps=3, aggregate="min")
            assert type(remote) is type(local)
            assert remote.tiles == local.tiles
            assert remote.scores == pytest.approx(local.scores, abs=1e-6)
            assert remote.step_scores == pytest.approx(local.step_scores, abs=1e-6, nan_ok=True)
            assert remote.ranking == local.ranking
        ranked = client.select_best_response(shown.question, shown.responses[::-1], shown.image)
        assert ranked == shown.responses
        assert client.model()["engines"] == 1
        texts = ["One.\nTwo.\n\n\nThree.", ["One.", "", "Two."]]
        how: dict[str, Any] = {"step_separator": "\n", "drop_empty_steps": True, "aggregate": "last"}
        for found, wanted in (
            (client.score(None, "Which?", texts, **how), demo_scorer.score(None, "Which?", texts, **how)),
            (
                next(client.score_many([(None, "Which?", texts)], **how)),
                demo_scorer.score(None, "Which?", texts, **how),
            ),
            (client.score(None, "Which?", np.array(texts[:1])), demo_scorer.score(None, "Which?", texts[:1])),
            (
                client.session(None, "Which?").score(texts, **how),
                demo_scorer.session(None, "Which?").score(texts, **how),
            ),
        ):
            assert [len(candidate.steps) for candidate in found] == [len(candidate.steps) for candidate in wanted]
            assert found.scores == pytest.approx(wanted.scores, abs=1e-6)


def test_what_a_client_takes_is_what_a_scorer_takes() -> None:
    """Code moves from one to the other by one line."""
    pairs: list[tuple[Any, Any]] = [(StepScorer, vprm.Client), (StepScorer, vprm.AsyncClient)]
    pairs += [(vprm.Session, RemoteSession), (vprm.Session, AsyncRemoteSession)]
    for own, remote in pairs:
        for name in ("score", "score_many", "session", "append", "score_next", "fork", "rewind", "close"):
            if not hasattr(own, name):
                continue
            wanted = set(inspect.signature(getattr(own, name)).parameters) - {"options", "image_root", "progress"}
            assert wanted <= set(inspect.signature(getattr(remote, name)).parameters), (own, name)
    for name in ("tiles", "prefix_tokens", "steps", "is_closed"):
        assert all(hasattr(kind, name) for kind in (vprm.Session, RemoteSession, AsyncRemoteSession))


def test_a_response_that_cannot_be_scored_carries_its_error(server: RunningServer) -> None:
    with vprm.Client(server.url) as client:
        result = client.score(None, "Which?", ["One.", []])
        assert result[1].score is None
        assert "no steps" in (result[1].error or "")
        assert result.best == 0


def test_notes_of_the_server_are_logged_once(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with vprm.Client(server.url) as client:
        for _ in range(2):
            client.score(None, "Which?", ["One.\nTwo."])
    warnings = [record.getMessage() for record in caplog.records if record.name == "vprm"]
    assert len([line for line in warnings if line.startswith("every response is one step")]) == 1


def test_an_image_is_uploaded_once_and_again_when_the_server_forgot_it(
    server: RunningServer, make_image: Callable[..., Image.Image]
) -> None:
    image = make_image(600, 400, seed=7)
    with vprm.Client(server.url) as client:
        before = len(server.service.uploads)
        first = client.score(image, "Which?", ["One."])
        client.score(image, "Which?", ["Two."])
        assert len(server.service.uploads) == before + 1
        server.service.uploads._ttl_s = -1.0
        server.service.uploads.expire()
        server.service.uploads._ttl_s = 3600.0
        assert len(server.service.uploads) == 0
        assert client.score(image, "Which?", ["One."]).scores == pytest.approx(first.scores, abs=1e-6)


def test_sessions_are_the_scorers_own(server: RunningServer, demo_scorer: StepScorer) -> None:
    shown = example()
    steps = shown.responses[1].split("\n\n")
    with vprm.Client(server.url) as client, client.session(shown.image, shown.question) as remote:
        local = demo_scorer.session(shown.image, shown.question)
        assert (remote.tiles, remote.prefix_tokens) == (local.tiles, local.prefix_tokens)
        for step in steps[:2]:
            assert remote.append(step).score == pytest.approx(local.append(step).score, abs=1e-6)
        with remote.fork() as other:
            wanted = local.score_next(["So 40.", "So 51."]).scores
            assert other.score_next(["So 40.", "So 51."]).scores == pytest.approx(wanted, abs=1e-6)
        remote.rewind()
        assert [step.text for step in remote.steps] == steps[:1]
        remote.close()
        with pytest.raises(InputError, match="is closed"):
            remote.append("x")


@pytest.mark.parametrize("code", ["unknown_session", "session_lost"])
def test_a_session_that_the_server_lost_is_replayed(server: RunningServer, code: str) -> None:
    """Whatever is asked next, the numbers are those of a session that was never lost."""
    shown = example()
    steps = shown.responses[1].split("\n\n")
    store = server.service.sessions

    def lose() -> None:
        for name in list(store._open):
            store._open.pop(name)

    class Losing(httpx.HTTPTransport):
        """Says of a session that is not there what Ray's ingress says of one whose replica is gone."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if answer.status_code == 404 and code == "session_lost":
                answer.read()
                return httpx.Response(503, json={"error": "it ended", "code": code})
            return answer

    with vprm.Client(server.url, transport=Losing()) as client:
        with client.session(shown.image, shown.question) as kept:
            wanted = [kept.append(step).score for step in steps]
            kept.rewind(2)
            wanted_next = kept.score_next(steps[2:]).scores
        lost = client.session(shown.image, shown.question)
        found = [lost.append(steps[0]).score]
        lose()
        found.append(lost.append(steps[1]).score)
        lose()
        assert lost.score_next(steps[2:]).scores == pytest.approx(wanted_next, abs=1e-6)
        lose()
        other = lost.fork()
        assert [step.text for step in other.steps] == steps[:2]
        lose()
        found += [other.append(step).score for step in steps[2:]]
        assert found == pytest.approx(wanted, abs=1e-6)
        other.rewind(1)
        lose()
        other.rewind(1)
        assert [step.text for step in other.steps] == steps[:2]
        lose()
        lost.close()
        other.close()


def test_the_asynchronous_client_does_the_same(server: RunningServer, demo_scorer: StepScorer) -> None:
    shown = example()
    wanted = demo_scorer.score(shown.image, shown.question, shown.responses)

    async def run() -> None:
        async with vprm.AsyncClient(server.url) as client:
            calls = [client.score(shown.image, shown.question, shown.responses) for _ in range(4)]
            for result in await asyncio.gather(*calls):
                assert result.scores == pytest.approx(wanted.scores, abs=1e-6)
            rows = [(None, f"{n}?", ["One.", "Two."]) for n in range(5)]
            many = await client.score_many([*rows, (None, " ", ["One."])])
            assert [result.best is None for result in many] == [False] * 5 + [True]
            async with await client.session(shown.image, shown.question) as session:
                first = shown.responses[0].split("\n\n")[0]
                assert (await session.append(first)).score == pytest.approx(wanted[0].steps[0].score, abs=1e-6)

    asyncio.run(run())


def test_many_rows_come_back_in_their_order(server: RunningServer, demo_scorer: StepScorer) -> None:
    rows: list[tuple[Any, str, list[str]]] = [(example().image, f"Question {n}?", [f"{n}.", "One."]) for n in range(6)]
    rows.insert(3, (None, " ", ["One.", "Two."]))
    with vprm.Client(server.url) as client:
        found = list(client.score_many(rows, aggregate="min"))
    wanted = list(demo_scorer.score_many(rows, aggregate="min"))
    assert [len(result) for result in found] == [2] * 7
    assert found[3][0].code == wanted[3][0].code
    for one, other in zip(found, wanted, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6, nan_ok=True)


def answering(*answers: Any) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that answers with these in turn, the last one for ever; an exception is raised."""
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), asked


DOCUMENT = {"tiles": [], "results": [{"index": 0, "score": 0.5, "steps": [], "error": None}], "best": 0}


def full() -> httpx.Response:
    return httpx.Response(429, json={"error": "full", "code": "overloaded"})


@pytest.mark.parametrize(
    "failures",
    [
        [full(), full()],
        [httpx.Response(503, json={"error": "stopping", "code": "draining"})],
        [httpx.ConnectError("refused"), httpx.RemoteProtocolError("closed"), httpx.ReadError("reset")],
        [httpx.Response(502, text="<html>bad gateway</html>")],
    ],
)
def test_what_may_pass_is_tried_again(failures: list[Any]) -> None:
    transport, asked = answering(*failures, httpx.Response(200, json=DOCUMENT))
    with vprm.Client(transport=transport) as client:
        assert client.score(None, "Q?", ["a"]).scores.tolist() == [0.5]
    assert len(asked) == len(failures) + 1
    assert all(int(request.headers["x-vprm-timeout-ms"]) > 0 for request in asked)


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (httpx.Response(422, json={"error": "blank", "code": "invalid_input"}), InputError, "invalid_input"),
        (httpx.Response(500, json={"error": "engine", "code": "engine"}), EngineError, "engine"),
        (httpx.Response(401, json={"error": "key", "code": "unauthorized"}), ServerError, "unauthorized"),
        (httpx.Response(504, json={"error": "late", "code": "deadline"}), ServerError, "deadline"),
        (httpx.Response(404, text="not here"), ServerError, "server"),
        (httpx.Response(200, text="<html>"), ServerError, "server"),
        (httpx.Response(200, json={"scores": [0.0]}), ServerError, "server"),
        (httpx.Response(200, json={**DOCUMENT, "results": [{"index": 0, "score": "x"}]}), ServerError, "server"),
    ],
)
def test_a_failure_is_an_error_at_once(answer: httpx.Response, error: type[Exception], code: str) -> None:
    transport, asked = answering(answer)
    with vprm.Client(transport=transport) as client, pytest.raises(error) as raised:
        client.score(None, "Q?", ["a"])
    assert getattr(raised.value, "code", None) == code
    assert len(asked) == 1


def test_trying_ends_with_the_deadline_or_the_number_of_tries() -> None:
    transport, asked = answering(httpx.ConnectError("refused"))
    with vprm.Client(transport=transport, retries=2) as client, pytest.raises(ServerError, match="reached"):
        client.score(None, "Q?", ["a"])
    assert len(asked) == 3
    transport, asked = answering(
        httpx.Response(429, json={"error": "", "code": "overloaded"}, headers={"retry-after": "9"})
    )
    with vprm.Client(transport=transport, timeout_s=5) as client, pytest.raises(ServerError) as raised:
        client.score(None, "Q?", ["a"])
    assert (raised.value.code, raised.value.retry_after_s, len(asked)) == ("overloaded", 9.0, 1)


def test_a_string_is_no_list_of_responses() -> None:
    with vprm.Client() as client, pytest.raises(InputError, match="must be a list"):
        client.score(None, "Q?", "one response")


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_an_array_that_is_no_image_is_refused(array: Any) -> None:
    with vprm.Client() as client, pytest.raises(InputError):
        client.score(array, "Q?", ["a"])


def test_the_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['httpx'] = None\nimport vprm\nvprm.Client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'vprm[client]'" in done.stderr


def test_the_client_loads_neither_engine_nor_server() -> None:
    heavy = "('onnxruntime', 'starlette', 'uvicorn', 'tokenizers', 'vprm_serving')"
    code = f"import sys, vprm; vprm.Client; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['tokenizers']")


def test_what_json_cannot_say_costs_its_own_response_alone(server: RunningServer, demo_scorer: StepScorer) -> None:
    odd: list[Any] = ["\ud800", ["One.", "\udc00"], ["One.", object()], b"x", {1, 2}, float("nan"), None]
    responses = ["One.", *odd, "Two."]
    local = demo_scorer.score(None, "Which?", responses)
    with vprm.Client(server.url) as client:
        found = client.score(None, "Which?", responses)
        assert [one.error for one in found] == [one.error for one in local]
        assert [one.code for one in found] == [one.code for one in local]
        assert found.scores == pytest.approx(local.scores, abs=1e-6, nan_ok=True)
        with pytest.raises(InputError, match="response 1 cannot be ranked: the text has characters that are not valid"):
            client.select_best_response("Which?", responses[:3], None)
        session = client.session(None, "Which?")
        next_steps = session.score_next(["One.", "\ud800"])
        assert next_steps[1].score is None and "valid Unicode" in (next_steps[1].error or "")
        assert next_steps.best == 0
        with pytest.raises(InputError, match="valid Unicode"):
            session.append("\ud800")
        with pytest.raises(InputError, match="valid Unicode"):
            client.score(None, "\ud800", ["One."])


@pytest.mark.parametrize(("url", "key"), [("ftp://localhost", None), (None, "a\nb")])
def test_an_address_or_a_key_that_cannot_work_is_not_tried_again(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, url: str | None, key: str | None
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("vprm_client.client.time.sleep", waits.append)
    with vprm.Client(url or server.url, api_key=key) as client, pytest.raises(ServerError, match="cannot be reached"):
        client.score(None, "Which?", ["One."])
    assert not waits
