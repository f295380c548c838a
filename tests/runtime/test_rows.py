"""Records of every known kind become rows; what is wrong is named."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vprm_runtime import InputError, ScoreOptions
from vprm_runtime.datasets.row import row_from_record

ROOT = Path("pictures")


def png() -> bytes:
    """A picture file's bytes."""
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def test_rows_keep_ids_limits_and_labels() -> None:
    """The package's own format, with every optional key."""
    record = {
        "id": "a",
        "image": ["x.png", "y.png"],
        "question": "Q",
        "responses": ["s1\n\ns2", ["s1"]],
        "max_steps": 4,
        "max_tiles": 2,
        "answer": "5",
        "correct": [True, False],
        "process_correctness": [[1, -1], [0]],
        "unknown": "left out",
    }
    row = row_from_record(record, 9, ROOT)
    assert (row.id, row.images, row.responses) == ("a", (ROOT / "x.png", ROOT / "y.png"), ("s1\n\ns2", ["s1"]))
    assert row.labels == {"answer": "5", "correct": [True, False], "process_correctness": [[1, -1], [0]]}
    assert row.options(ScoreOptions(max_steps=12)) == ScoreOptions(max_steps=4, max_tiles=2)
    assert row.options(ScoreOptions(max_steps=1, max_tiles=6, aggregate="min")) == ScoreOptions(1, 2, "min")


def test_visual_process_bench_row() -> None:
    """The benchmark's row: one response, labels a step; the number is the id."""
    record = {
        "image": ["images/1.png"],
        "question": "Q",
        "answer": "A",
        "response": {"steps": ["s1", "s2", "s3"], "process_correctness": [1, 0, -1]},
        "policy_model": "M",
        "data_source": "D",
    }
    row = row_from_record(record, 7, ROOT)
    assert (row.id, row.responses) == (7, (["s1", "s2", "s3"],))
    assert row.labels == {
        "process_correctness": [[1, 0, -1]],
        "answer": "A",
        "policy_model": "M",
        "data_source": "D",
    }


def test_raw_steps_are_right_iff_their_score_is_positive() -> None:
    """VisualPRM400K's raw form."""
    steps = [{"step": "s1", "score": 0.25, "num_mc_correct": 4}, {"step": "s2", "score": 0.0}]
    row = row_from_record(
        {"image": "1.png", "question": "Q", "response": "ignored", "steps_with_score": steps}, 0, ROOT
    )
    assert row.responses == (["s1", "s2"],)
    assert row.labels == {"process_correctness": [[1, -1]], "step_labels": [[0.25, 0.0]]}


def test_conversation_gives_back_question_steps_and_labels() -> None:
    """VisualPRM400K's conversation form, with the picture in front of or inside the question."""
    turns = [
        {"from": "system", "value": "You are a judge."},
        {"from": "human", "value": "### Question:\n<image>\nHow many?\n\n### Solution Process:\ns1"},
        {"from": "gpt", "value": "+"},
        {"from": "human", "value": "s2"},
        {"from": "gpt", "value": "-"},
    ]
    row = row_from_record({"image": "1.png", "conversations": turns}, 0, ROOT)
    assert (row.question, row.responses) == ("<image>\nHow many?", (["s1", "s2"],))
    assert row.labels == {"process_correctness": [[1, -1]]}
    turns[1]["value"] = "<image>\n### Question:\nHow many?\n\n### Solution Process:\ns1"
    assert row_from_record({"image": "1.png", "conversations": turns}, 0, ROOT).question == "<image>\nHow many?"


def test_preference_and_single_response() -> None:
    """MMPR's pairs, and a row with one response without labels."""
    row = row_from_record({"image": "1.png", "question": "Q", "chosen": "good", "rejected": "bad"}, 0, ROOT)
    assert (row.responses, row.labels) == (("good", "bad"), {"chosen": 0, "rejected": 1})
    assert row_from_record({"question": "Q", "response": "s1\n\ns2"}, 0, ROOT).responses == ("s1\n\ns2",)


@pytest.mark.parametrize("kind", ["bytes", "base64", "data uri", "object", "object base64"])
def test_images_as_bytes_or_base64(kind: str) -> None:
    """Every way to carry a picture inside the row gives the same bytes."""
    content = png()
    encoded = base64.b64encode(content).decode()
    image: Any = {
        "bytes": content,
        "base64": encoded,
        "data uri": f"data:image/png;base64,{encoded}",
        "object": {"bytes": content, "path": None},
        "object base64": {"bytes": encoded},
    }[kind]
    for value in (image, [image]):
        assert row_from_record({"image": value, "question": "Q", "responses": ["r"]}, 0, ROOT).images == (content,)


def test_image_paths() -> None:
    """Relative to the root, absolute, in an object, under `images`, or none at all."""
    base = {"question": "Q", "responses": ["r"]}
    assert row_from_record({**base, "images": [{"bytes": None, "path": "a.png"}]}, 0, ROOT).images == (ROOT / "a.png",)
    assert row_from_record({**base, "image": "/9j/a.png"}, 0, ROOT).images == (Path("/9j/a.png"),)
    for empty in ({}, {"image": None}, {"image": []}):
        assert row_from_record({**base, **empty}, 0, ROOT).images == ()


def test_group_key_is_of_images_question_and_limits() -> None:
    """Responses, labels and id do not matter; everything that is in the prefix does."""
    base = {"image": "a.png", "question": "Q", "responses": ["r"]}

    def key(**changes: object) -> bytes:
        return row_from_record({**base, **changes}, 0, ROOT).group_key

    assert key() == key(responses=["x", "y"], id="other", answer="4")
    different = [
        key(),
        key(image="b.png"),
        key(question="R"),
        key(max_tiles=2),
        key(image=["a.png", "a.png"]),
        key(image=[]),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["not", "an", "object"], "a row is a JSON object, got list"),
        ({"question": "Q", "text": "r"}, r"keys \(question, text\) are of no known kind"),
        ({"question": 5, "responses": ["r"]}, "question must be text, got int"),
        ({"question": "Q", "responses": []}, "at least one response"),
        ({"question": "Q", "responses": "text"}, "responses must be a list"),
        ({"question": "Q", "responses": ["r"], "id": 1.5}, "id is float"),
        ({"question": "Q", "responses": ["r"], "max_steps": "4"}, "max_steps must be an integer"),
        ({"question": "Q", "responses": ["r"], "image": ""}, "leave image out for text only"),
        ({"question": "Q", "responses": ["r"], "image": [3]}, "an image must be a path"),
        ({"question": "Q", "responses": ["r"], "image": "data:image/png;base64,?"}, "not valid base64"),
        ({"question": "Q", "responses": ["r"], "image": "https://example.org/1"}, "^https://example.org/1 is a URL"),
        ({"question": "Q", "responses": ["r"], "answer": float("nan")}, "answer cannot be written as JSON"),
        ({"question": "Q", "responses": ["r"], "answer": b"bytes"}, "answer cannot be written as JSON"),
        ({"question": "Q", "response": {"steps": "ab", "process_correctness": [1, 1]}}, "object with a list of steps"),
        ({"question": "Q", "steps_with_score": [{"step": "a", "score": float("inf")}]}, "step_labels cannot be"),
        ({"question": "Q", "response": {"steps": ["a", "b"], "process_correctness": [1]}}, "1 labels for 2 steps"),
        ({"question": "Q", "response": {"steps": ["a"], "process_correctness": [2]}}, "must be a list of 1"),
        ({"question": "Q", "response": {"text": "a"}}, "object with a list of steps"),
        ({"question": "Q", "steps_with_score": [{"step": "a"}]}, "without a step or a numeric score"),
        ({"conversations": [{"from": "human", "value": "hello"}]}, "must hold '### Question:'"),
        (
            {"conversations": [{"from": "human", "value": "### Question:\nQ\n\n### Solution Process:\na"}]},
            "1 human turns and 0 answers",
        ),
    ],
)
def test_what_is_wrong_is_named(record: object, message: str) -> None:
    """Bad records raise InputError that says which key and what to do."""
    with pytest.raises(InputError, match=message):
        row_from_record(record, 0, ROOT)


def test_a_bad_response_is_left_to_scoring() -> None:
    """One bad response must not cost the row its other scores."""
    row = row_from_record({"question": "Q", "responses": ["good", 5, []]}, 0, ROOT)
    assert row.responses == ("good", [5], [])
