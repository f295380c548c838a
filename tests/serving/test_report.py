"""/v1/report: a scored row as the self-contained page of evaluations; nothing that does not fit the row becomes one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.serving.conftest import RunningServer
from tests.serving.test_score import example_row

LABELS = [[1, 1, 1, 1], [1, -1, 0, 1]]


def scored(server: RunningServer) -> dict[str, Any]:
    row = {**example_row(), "process_correctness": LABELS, "answer": "51", "data_source": "demo"}
    return {"row": row, "results": server.score(row).json()["results"]}


def test_a_scored_row_becomes_a_page_without_the_engine(server: RunningServer) -> None:
    body = scored(server)
    ran = server.metric("vprm_prompt_tokens_total")
    answer = server.http.post("/v1/report", json={**body, "aggregate": "min", "threshold": 0.8})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert server.metric("vprm_prompt_tokens_total") == ran
    text = answer.text
    assert "Response 1" in text
    assert text.count("data:image/jpeg;base64,") == 1
    lowest = min(step["score"] for step in body["results"][1]["steps"])
    assert f'<span class="total">{lowest:.3f}</span>' in text
    assert "Right answer: <b>51</b>" in text
    wrong = sum(
        bool(label) and (step["score"] > 0.8) != (label == 1)
        for result, labels in zip(body["results"], LABELS, strict=True)
        for step, label in zip(result["steps"], labels, strict=True)
    )
    assert wrong > 0
    assert f"{wrong} steps called wrongly" in text
    assert text.count('class="wrong-call"') == wrong
    assert not re.search(r"""(src|href)=["']?(https?:|/)""", text)


def test_what_is_in_a_row_cannot_become_markup(server: RunningServer) -> None:
    row = {"question": "<script>alert(1)</script>", "responses": ["<img src=x onerror=alert(2)>", []]}
    results = server.score(row).json()["results"]
    text = server.http.post("/v1/report", json={"row": row, "results": results}).text
    assert "&lt;script&gt;alert(1)" in text
    assert "<img" not in text
    assert "Not scored: " in text


@pytest.mark.parametrize(
    "change",
    [
        {"results": []}, {"results": "x"}, {"results": None}, {"aggregate": "median"}, {"threshold": 2}, {"other": 1},
        {"threshold": True}, {"row": {"question": "Q"}}, {"row": 3},
        *({"results": [{"index": 0, "steps": [{"text": "a", "score": 0.5}], "error": None}, second]} for second in (
            {"index": 0, "error": "x"}, {"index": 2, "error": "x"}, {"index": 1}, {"index": 1, "steps": []}, 7,
            {"index": 1, "steps": [{"text": "a", "score": 1.5}]}, {"index": 1, "steps": [{"text": 3, "score": 0.5}]},
            {"index": 1, "steps": [{"text": "a", "score": None}]}, {"index": 1, "steps": [{"text": "a", "score": "1"}]},
        )),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_row_is_refused(server: RunningServer, change: dict[str, Any]) -> None:
    answer = server.http.post("/v1/report", json={**scored(server), **change})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]
