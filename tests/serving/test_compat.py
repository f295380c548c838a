"""Shapes of other servers: what OpenRLHF and vLLM's clients send and expect."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.serving.conftest import RunningServer

from vprm_demo import example
from vprm_serving.uploads import image_digest


def wanted(server: RunningServer, image: str | None = None, aggregate: str = "mean") -> dict[str, Any]:
    row = {"question": example().question, "responses": [example().responses[1]], "image": image}
    result: dict[str, Any] = server.score(row, aggregate=aggregate).json()["results"][0]
    return result


def reward(server: RunningServer, query: str, prompt: str, label: object, **params: str) -> Any:
    body = {"query": [query], "prompts": [prompt], "labels": [label]}
    return server.http.post("/get_reward", json=body, params=params)


def test_openrlhf_gets_the_reward_of_what_follows_the_prompt(server: RunningServer) -> None:
    prompt, response = example().question, example().responses[1]
    result = wanted(server)
    answer = reward(server, f"{prompt}\n{response}</s>", prompt, "51").json()
    steps = [step["score"] for step in result["steps"]]
    assert answer["rewards"] == answer["scores"] == [pytest.approx(result["score"], abs=1e-6)]
    assert answer["extra_logs"]["vprm_min"] == [pytest.approx(min(steps), abs=1e-6)]
    assert {len(values) for values in answer["extra_logs"].values()} == {1}


def test_openrlhf_names_the_image_in_the_label(server: RunningServer) -> None:
    content = example().image.read_bytes()
    digest = image_digest(content)
    server.http.put(f"/v1/images/{digest}", content=content)
    result = wanted(server, f"blake2b:{digest}", "min")
    label = json.dumps({"question": example().question, "image": f"blake2b:{digest}", "answer": "51"})
    template = "<|im_start|>user\n<image>...<|im_end|>\n<|im_start|>assistant\n"
    answer = reward(server, template + example().responses[1] + "<|im_end|>\n", template, label, aggregate="min")
    assert answer.json()["rewards"] == [pytest.approx(result["score"], abs=1e-6)]


def test_empty_lists_are_answered_with_empty_lists(server: RunningServer) -> None:
    answer = server.http.post("/get_reward", json={"query": [], "prompts": [], "labels": []})
    assert answer.status_code == 200
    assert answer.json()["rewards"] == answer.json()["scores"] == []


@pytest.mark.parametrize(
    ("query", "prompt", "label"),
    [
        ("something else", "What?", "1"),
        ("What?", "What?", "1"),
        ("<|im_start|>user\nWhat?Five.", "<|im_start|>user\nWhat?", "1"),
        ("What?Five.", "What?", '{"image": "http://example.org/a.png"}'),
        ("What?Five.", "What?", '{"image": "blake2b:00"}'),
        ("What?Five.", "What?", '{"image_path": "blake2b:00"}'),
        ("What?Five.", "What?", '{"question": "What?", "figure": "a.png"}'),
        ("What?Five.", "What?", '{"has_image": true}'),
    ],
)
def test_a_reward_is_never_made_up(server: RunningServer, query: str, prompt: str, label: str) -> None:
    answer = reward(server, query, prompt, label)
    if query == prompt:  # an empty response is one empty step, which the model scores
        assert answer.status_code == 200
        return
    assert answer.status_code in (404, 422)
    assert "rewards" not in answer.json()


def test_pooling_of_messages_gives_both_probabilities_of_each_step(server: RunningServer) -> None:
    url = "data:image/png;base64," + base64.b64encode(example().image.read_bytes()).decode()
    result = wanted(server, url)
    image = {"type": "image_url", "image_url": {"url": url}}
    user = {"role": "user", "content": [image, {"type": "text", "text": example().question}]}
    assistant = {"role": "assistant", "content": example().responses[1]}
    answer = server.http.post("/pooling", json={"model": "m", "task": "token_classify", "messages": [user, assistant]})
    data = answer.json()["data"][0]["data"]
    assert [positive for _, positive in data] == pytest.approx([step["score"] for step in result["steps"]], abs=1e-6)
    assert [sum(pair) for pair in data] == pytest.approx([1.0] * len(data))
    in_parts = [{"type": "text", "text": step} for step in example().responses[1].split("\n\n")]
    listed = server.http.post("/pooling", json={"messages": [user, {"role": "assistant", "content": in_parts}]})
    assert listed.json()["data"] == answer.json()["data"]


@pytest.mark.parametrize(
    "body",
    [
        {"input": "text"},
        {"messages": [{"role": "user", "content": "Q"}]},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]},
        {"messages": "text"},
    ],
)
def test_pooling_refuses_what_has_no_question(server: RunningServer, body: dict[str, Any]) -> None:
    answer = server.http.post("/pooling", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_json")


@pytest.mark.parametrize("labels", [5, 0, "", {}, "51"])
def test_labels_that_are_no_list_are_refused(server: RunningServer, labels: object) -> None:
    answer = server.http.post("/get_reward", json={"query": ["What?Five."], "prompts": ["What?"], "labels": labels})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_json")


@pytest.mark.parametrize("start", ["<start_of_turn>user\n", "<｜User｜>", "<s>[INST] ", "<|im_user|>user<|im_middle|>"])
def test_a_prompt_in_any_template_is_no_question(server: RunningServer, start: str) -> None:
    answer = reward(server, f"{start}What?\nFive.", f"{start}What?\n", "51")
    assert answer.status_code == 422
    assert "chat template" in answer.json()["error"]


@pytest.mark.parametrize("part", [
    {"type": "image_url"}, {"type": "image_url", "image_url": {}}, {"type": "image_url", "image_url": {"url": ""}},
    {"type": "image_url", "image_url": None}, {"type": "image_url", "image_url": {"url": ["a.png"]}},
])  # fmt: skip
def test_pooling_does_not_score_the_text_alone_if_an_image_was_lost(server: RunningServer, part: Any) -> None:
    user = {"role": "user", "content": [{"type": "text", "text": "Which?"}, part]}
    answer = server.http.post("/pooling", json={"messages": [user, {"role": "assistant", "content": "One."}]})
    assert answer.status_code == 422
    assert "image" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["refusal", "image_url", None])
def test_pooling_takes_texts_alone_as_steps(server: RunningServer, kind: str | None) -> None:
    messages = [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": [{"type": kind, "text": "One."}]},
    ]
    assert server.http.post("/pooling", json={"messages": messages}).status_code == 422
