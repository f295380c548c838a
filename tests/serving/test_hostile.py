"""Bodies that no client of ours sends: every one gets an answer of its own fault, never a 500 and never a score."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import pytest
from tests.serving.conftest import RunningServer

ODD: list[Any] = [
    None, True, 0, -1, 1e308, 10**30, "", " ", "\ud800", "\0", [], {}, [[]], [None], {"path": 1}, "data:,", "blake2b:",
    "blake2b:zz", "//", "../x", "http://x/y.png", ["a", 1], [["a"], "b"], "x" * 5000,
]  # fmt: skip
KEYS = (
    "id", "image", "question", "responses", "max_steps", "max_tiles", "images", "response", "conversations", "label"
)  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_odd_rows_are_their_senders_fault(server: RunningServer, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(25):
        row: dict[str, Any] = {"question": "Which?", "responses": ["One."]}
        for key in rng.sample(KEYS, rng.randint(1, 3)):
            row[key] = rng.choice(ODD)
        body = json.dumps(row).encode()
        for path in ("/v1/score", "/v1/select", "/v1/sessions", "/v1/score/stream"):
            answer = server.http.post(path, content=body)
            assert answer.status_code in (200, 201, 400, 404, 413, 422), (path, row, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error", "code"}


@pytest.mark.parametrize("path", ["/get_reward", "/pooling"])
def test_odd_bodies_of_other_shapes_are_their_senders_fault(server: RunningServer, path: str) -> None:
    rng = random.Random(path)
    for _ in range(60):
        item = rng.choice(ODD)
        body = rng.choice(
            [
                item,
                {"query": item, "prompts": [item], "labels": [item]},
                {"query": ["Q a"], "prompts": ["Q"], "labels": [item]},
                {"messages": item},
                {"messages": [{"role": "user", "content": item}, {"role": "assistant", "content": "One."}]},
                {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": item}]},
            ]
        )
        answer = server.http.post(path, content=json.dumps(body).encode())
        assert answer.status_code in (200, 400, 404, 413, 422), (body, answer.text)


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b'{"a":' * 5000, b"\xff\xfe", b"NaN", b'{"question": NaN}',
                                  b'{"question": "Q", "question": "P", "responses": ["a"]}'])  # fmt: skip
def test_bodies_that_are_no_json_are_refused(server: RunningServer, body: bytes) -> None:
    assert server.http.post("/v1/score", content=body).status_code in (400, 422)


HALVES = [
    rb'"id": "\udfff"', rb'"answer": "\ud800"', rb'"answer": {"\ud800": 1}', b'"answer": "\xed\xa0\x80"',
    rb'"extra": ["\uD83D"]',
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select", "/v1/score/stream", "/v1/sessions"])
@pytest.mark.parametrize("pair", [*HALVES, b'"answer": ' + b"[" * 900 + b"]" * 900, b'"id": ' + b"[" * 65 + b"]" * 65])
def test_what_files_of_rows_refuse_is_refused(server: RunningServer, path: str, pair: bytes) -> None:
    body = b'{"question": "Which?", "responses": ["One."], %s}' % pair
    answers = [server.http.post(path, content=body)]
    if path != "/v1/sessions":
        answers.append(server.http.post(path, files={"row": ("row.json", body)}))
    for answer in answers:
        assert answer.status_code == 422, answer.text
        assert "half a surrogate pair" in answer.json()["error"] or "nested" in answer.json()["error"]


def test_text_in_utf_16_is_checked_too(server: RunningServer) -> None:
    row = '{"question": "Which?", "responses": ["One."], "id": "%s"}'
    assert server.http.post("/v1/score", content=(row % "a😀").encode("utf-16")).json()["id"] == "a😀"
    half = (row % "\ud800").encode("utf-16", "surrogatepass")
    assert server.http.post("/v1/score", content=half).status_code == 422


def test_labels_are_checked_too(server: RunningServer) -> None:
    for label in (r'{"question": "\udc00"}', '{"question": "Which?", "image": ' + "[" * 100 + "]" * 100 + "}"):
        body = {"query": ["Which? One."], "prompts": ["Which?"], "labels": [label]}
        answer = server.http.post("/get_reward", json=body)
        assert (answer.status_code, "a label " in answer.text) == (422, True)


def test_whole_characters_and_lists_that_are_not_deep_are_taken(server: RunningServer) -> None:
    body = rb'{"question": "Which?", "responses": ["One."], "id": "\ud83d\ude00", "answer": %s}'
    answer = server.http.post("/v1/score", content=body % (b"[" * 63 + b"]" * 63))
    assert (answer.status_code, answer.json()["id"]) == (200, "😀")


def test_session_bodies_are_checked(server: RunningServer) -> None:
    name = server.http.post("/v1/sessions", json={"question": "Which?"}).json()["session"]
    for action, key in (("append", "step"), ("score_next", "alternatives"), ("rewind", "steps")):
        for odd in ODD:
            answer = server.http.post(f"/v1/sessions/{name}/{action}", content=json.dumps({key: odd}).encode())
            assert answer.status_code in (200, 400, 413, 422), (action, odd, answer.text)
    assert server.http.delete(f"/v1/sessions/{name}").status_code == 204


@pytest.mark.parametrize("digits", [19, 400, 5000])
@pytest.mark.parametrize("name", ["max_steps", "max_tiles", "x-vprm-timeout-ms"])
def test_numbers_with_more_digits_than_any_use_has_are_refused(server: RunningServer, name: str, digits: int) -> None:
    text, row = "9" * digits, {"question": "Which?", "responses": ["One."]}
    if name.startswith("x-"):
        answer = server.http.post("/v1/score", json=row, headers={name: text})
    else:
        answer = server.http.post("/v1/score", json=row, params={name: text})
    assert answer.status_code == 422
    assert name in answer.json()["error"] and len(answer.json()["error"]) < 400


def test_a_parameter_that_is_there_twice_is_refused(server: RunningServer) -> None:
    row = {"question": "Which?", "responses": ["One."]}
    answer = server.http.post("/v1/score?aggregate=min&aggregate=max", json=row)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_packed_body_is_refused_by_name(server: RunningServer, encoding: str) -> None:
    body = json.dumps({"question": "Which?", "responses": ["One."]}).encode()
    for content in (gzip.compress(body), body):
        answer = server.http.post("/v1/score", content=content, headers={"content-encoding": encoding})
        assert answer.status_code == 415
        assert "content-encoding" in answer.json()["error"]


def test_the_type_of_a_multipart_request_may_be_in_capitals(server: RunningServer) -> None:
    row = '{"question": "Which?", "responses": ["One."]}'
    part = f'--x\r\nContent-Disposition: form-data; name="row"\r\n\r\n{row}\r\n--x--'
    answer = server.http.post("/v1/score", content=part, headers={"content-type": "Multipart/Form-Data; boundary=x"})
    assert answer.status_code == 200


def test_addresses_and_methods_that_are_not_there_are_errors_as_any_other(server: RunningServer) -> None:
    for method, path, status in (("GET", "/nope", 404), ("GET", "/v1/score", 405), ("DELETE", "/v1/model", 405)):
        answer = server.http.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "code"}
        assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("key", ["responses", "response", "chosen", "steps_with_score"])
def test_a_session_takes_no_responses(server: RunningServer, key: str) -> None:
    answer = server.http.post("/v1/sessions", json={"question": "Which?", key: ["One."]})
    assert answer.status_code == 422
    assert key in answer.json()["error"]
