"""/v1/score and its relatives: the same numbers as in the process, and errors that are errors."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from tests.serving.conftest import RunningServer

from vprm_demo import example
from vprm_runtime import StepScorer
from vprm_serving.uploads import image_digest

QUESTION = "Find m \\angle 3."


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def example_row() -> dict[str, Any]:
    shown = example()
    content = base64.b64encode(shown.image.read_bytes()).decode()
    return {"id": "one", "image": content, "question": shown.question, "responses": shown.responses}


def scores_of(document: dict[str, Any]) -> list[list[float]]:
    return [[step["score"] for step in result["steps"]] for result in document["results"]]


def test_the_document_is_that_of_the_command_line(server: RunningServer, demo_scorer: StepScorer) -> None:
    shown = example()
    local = demo_scorer.score(shown.image, shown.question, shown.responses).to_dict("one")
    answer = server.score(example_row())
    assert answer.status_code == 200
    remote = answer.json()
    assert remote.keys() == local.keys()
    assert (remote["id"], remote["tiles"], remote["best"]) == ("one", local["tiles"], local["best"])
    for found, wanted in zip(scores_of(remote), scores_of(local), strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)
    assert answer.headers["x-request-id"]


def test_many_callers_at_once_get_what_one_by_one_scoring_gives(
    server: RunningServer, demo_scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    images = [make_image(200 + 10 * i, 150, seed=i) for i in range(3)]
    rows = []
    for i in range(24):
        image = None if i % 4 == 3 else images[i % 4]
        responses = [f"There are {n} of them.\n\nSo {n}." for n in range(i % 5 + 1)]
        rows.append((image, f"How many, {i % 2}?", responses))
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(
                lambda row: server.score(
                    {
                        "image": None if row[0] is None else base64.b64encode(png(row[0])).decode(),
                        "question": row[1],
                        "responses": row[2],
                    }
                ),
                rows,
            )
        )
    for (image, question, responses), answer in zip(rows, answers, strict=True):
        assert answer.status_code == 200, answer.text
        for response, found in zip(responses, scores_of(answer.json()), strict=True):
            alone = demo_scorer.score(image, question, [response])[0].step_scores
            assert found == pytest.approx(alone.tolist(), abs=1e-6)


def test_a_prefix_is_run_once_for_all_requests(server: RunningServer) -> None:
    row = {**example_row(), "question": "Is it run once?"}
    first, second = server.score(row), server.score({**row, "responses": ["Another.", "Two."]})
    assert first.headers["x-vprm-cached-tokens"] == "0"
    assert second.headers["x-vprm-cached-tokens"] == second.headers["x-vprm-prefix-tokens"] != "0"


def test_options_are_in_the_address(server: RunningServer, demo_scorer: StepScorer) -> None:
    shown = example()
    wanted = demo_scorer.score(shown.image, shown.question, shown.responses, max_steps=2, max_tiles=1, aggregate="min")
    remote = server.score(example_row(), aggregate="min", max_steps=2, max_tiles=1).json()
    assert [result["score"] for result in remote["results"]] == pytest.approx(wanted.scores.tolist(), abs=1e-6)
    assert remote["tiles"] == list(wanted.tiles)
    assert server.score(example_row(), agregate="min").status_code == 422
    assert server.score({**example_row(), "aggregate": "min"}).json()["code"] == "invalid_input"


def test_the_sender_hears_what_is_not_read(server: RunningServer) -> None:
    """As in a file of rows: keys that nothing is read from, and responses that are one step though they have lines."""
    row = {"question": "Which?", "responses": ["One.\nTwo."], "answr": "2", "chosen": "x", "answer": "2"}
    for path in ("/v1/score", "/v1/select"):
        keys, steps = server.http.post(path, json=row).json()["notes"]
        assert keys == "keys that are not read: answr (did you mean answer?), chosen (another key is read instead)"
        assert steps.startswith("every response is one step although it has line breaks")
    assert "notes" not in server.score(example_row()).json()
    assert len(server.score({**row, "responses": ["One."]}, max_steps=1).json()["notes"]) == 1
    lost = server.score({"question": "<image 1> Which?", "responses": ["One."]})
    assert (lost.status_code, "there is no image" in lost.json()["error"]) == (422, True)
    for key in ("step_separator", "aggregate"):
        assert "is not read from a row" in server.score({**example_row(), key: "x"}).json()["error"]
    said = server.http.post("/v1/sessions", json={"question": "Which?", "answr": "2"})
    assert (said.status_code, "did you mean answer?" in said.json()["error"]) == (422, True)


def test_multipart_and_uploads_give_the_same_scores(server: RunningServer) -> None:
    row = example_row()
    content = example().image.read_bytes()
    wanted = server.score(row).json()
    text = {key: value for key, value in row.items() if key != "image"}
    form = {"row": (None, json.dumps(text), "application/json"), "image": ("angle.png", content, "image/png")}
    assert server.http.post("/v1/score", files=form).json() == wanted
    stated = {**form, "row": (None, json.dumps({**text, "has_image": True}), "application/json")}
    assert server.http.post("/v1/score", files=stated).json()["results"] == wanted["results"]
    assert "says that there is an image" in server.score({**text, "has_image": True}).json()["error"]

    digest = image_digest(content)
    by_digest = {**row, "image": f"blake2b:{digest}"}
    missing = server.score(by_digest)
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_image")
    assert server.http.head(f"/v1/images/{digest}").status_code == 404
    assert server.http.put(f"/v1/images/{digest}", content=content).status_code == 201
    assert server.http.put(f"/v1/images/{digest}", content=content).status_code == 200
    assert server.http.head(f"/v1/images/{digest}").status_code == 200
    assert server.score(by_digest).json() == wanted
    wrong = server.http.put(f"/v1/images/{'0' * 64}", content=content)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "digest_mismatch")


@pytest.mark.parametrize("kind", ["", "; charset=latin-1", "; charset=utf-16"])
def test_text_of_a_multipart_request_is_utf_8(server: RunningServer, kind: str) -> None:
    row = {"question": "Wie groß ist ∠3?", "responses": ["39°.", "Größer."], "id": "ä"}
    wanted = server.score(row).json()

    def sent(text: bytes) -> httpx.Response:
        body = b'--B\r\ncontent-disposition: form-data; name="row"\r\n\r\n' + text + b"\r\n--B--\r\n"
        headers = {"content-type": f"multipart/form-data; boundary=B{kind}"}
        return server.http.post("/v1/score", content=body, headers=headers)

    assert sent(json.dumps(row, ensure_ascii=False).encode()).json() == wanted
    latin = sent(json.dumps({**row, "question": "Wie groß?"}, ensure_ascii=False).encode("latin-1"))
    assert (latin.status_code, latin.json()["code"]) == (400, "bad_json")


def test_select_ranks_as_select_best_response_does(server: RunningServer) -> None:
    row = example_row()
    answer = server.http.post("/v1/select", json={**row, "responses": row["responses"][::-1]}).json()
    assert (answer["best"], answer["ranking"], answer["response"]) == (1, [1, 0], row["responses"][0])
    bad = server.http.post("/v1/select", json={**row, "responses": ["Fine.", []]})
    assert bad.status_code == 422
    assert "response 1 cannot be ranked" in bad.json()["error"]


def test_a_bad_response_has_its_error_beside_the_others_scores(server: RunningServer) -> None:
    document = server.score({"question": "Which?", "responses": ["One.", [], ["x" * 40_000], "Two."]}).json()
    errors = [result["error"] for result in document["results"]]
    assert errors[0] is None
    assert errors[3] is None
    assert errors[1] is not None
    assert errors[2] is not None
    assert [result["score"] for result in document["results"]][1:3] == [None, None]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"[]", 422, "invalid_input"),
        (b'{"question": "Q", "responses": []}', 422, "invalid_input"),
        (b'{"question": " ", "responses": ["a"]}', 422, "invalid_input"),
        (b'{"question": "Q", "responses": ["a"], "image": "http://10.0.0.1/a.png"}', 422, "invalid_input"),
        (b'{"question": "Q", "responses": ["a"], "image": "/etc/passwd"}', 422, "path_refused"),
        (b'{"question": "Q", "responses": ["a"], "image": "data:image/png;base64,AAAA"}', 422, "invalid_input"),
        (b'{"question": "Q", "responses": ["a"], "maxTiles": 2}', 422, "invalid_input"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_code(server: RunningServer, body: bytes, status: int, code: str) -> None:
    answer = server.http.post("/v1/score", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "score" not in answer.json()
    assert len(answer.json()["error"]) < 500


def test_paths_lead_to_the_image_root_only(
    serve: Callable[..., RunningServer], tmp_path: Path, make_image: Callable[..., Image.Image]
) -> None:
    root = tmp_path / "images"
    root.mkdir()
    make_image().save(root / "in.png")
    make_image().save(tmp_path / "out.png")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    (root / "good_link.png").symlink_to(root / "in.png")
    started = serve(image_root=root)

    def status(path: str) -> int:
        return started.score({"question": "Q?", "responses": ["a"], "image": path}).status_code

    assert [status(path) for path in ("in.png", "good_link.png", str(root / "in.png"))] == [200, 200, 200]
    refused = ("../out.png", "link.png", str(tmp_path / "out.png"), "missing.png", ".", "in.png/../../out.png", "\0")
    assert [status(path) for path in refused] == [422] * len(refused)


def test_the_stream_ends_with_the_document(server: RunningServer) -> None:
    wanted = server.score(example_row()).json()
    events = stream(server, example_row())
    assert [name for name, _ in events] == ["prepared", "result", "result", "document"]
    assert events[0][1]["steps"][0] == example().responses[0].split("\n\n")
    assert events[-1][1] == wanted
    by_index = {data["index"]: data for name, data in events if name == "result"}
    assert [by_index[0]["score"], by_index[1]["score"]] == [result["score"] for result in wanted["results"]]


def test_a_long_response_shows_its_first_steps_while_it_runs(server: RunningServer) -> None:
    steps = [f"Step {n}: the number of red shapes is {n}, and that of the blue ones is {2 * n}." for n in range(20)]
    events = stream(server, {"question": "How many?", "responses": [steps]})
    partial = [data for name, data in events if name == "steps"]
    assert len(partial) >= 2
    final = events[-1][1]["results"][0]["steps"]
    for data in partial:
        assert data["steps"] == final[: len(data["steps"])]


def test_a_stream_that_cannot_begin_has_an_error_status(server: RunningServer) -> None:
    answer = server.http.post("/v1/score/stream", json={"question": "", "responses": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def stream(server: RunningServer, row: dict[str, Any]) -> list[tuple[str, Any]]:
    answer = server.http.post("/v1/score/stream", json=row)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events
