"""Records of every known kind become rows; what is wrong is named."""

from __future__ import annotations

import base64
import datetime
import decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.rows import png

from vprm_runtime import InputError, ScoreOptions
from vprm_runtime.datasets.row import row_from_record

ROOT = Path("images")


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
    """VisualPRM400K's conversation form, with the image in front of or inside the question."""
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
    assert row.remarks == ("the system turn of conversations is not read: the bundle has the system message",)
    assert row_from_record({"image": "1.png", "conversations": turns[1:]}, 0, ROOT).remarks == ()
    turns[1]["value"] = "<image>\n### Question:\nHow many?\n\n### Solution Process:\ns1"
    assert row_from_record({"image": "1.png", "conversations": turns}, 0, ROOT).question == "<image>\nHow many?"


def test_preference_and_single_response() -> None:
    """MMPR's pairs, and a row with one response without labels."""
    row = row_from_record({"image": "1.png", "question": "Q", "chosen": "good", "rejected": "bad"}, 0, ROOT)
    assert (row.responses, row.labels) == (("good", "bad"), {"chosen": 0, "rejected": 1})
    assert row_from_record({"question": "Q", "response": "s1\n\ns2"}, 0, ROOT).responses == ("s1\n\ns2",)


@pytest.mark.parametrize("kind", ["bytes", "base64", "data uri", "object", "object base64"])
def test_images_as_bytes_or_base64(kind: str) -> None:
    """Every way to carry an image inside the row gives the same bytes."""
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
        ({"question": "Q", "responses": ["r"], "image": [3]}, "an image must be a path"),
        ({"question": "Q", "responses": ["r"], "maxTiles": 3}, "maxTiles is not read: write max_tiles"),
        ({"question": "Q", "responses": ["r"], "max-step": 3}, "max-step is not read: write max_steps"),
        ({"question": "Q", "responses": ["r"], "Max_Steps": 3}, "Max_Steps is not read: write max_steps"),
        ({"question": "Q", "steps_with_score": [{"score": 1}]}, "an entry without a step"),
        ({"question": "Q", "responses": ["r"], "image": "data:image/png;base64,?"}, "not valid base64"),
        ({"question": "Q", "responses": ["r"], "image": "https://example.org/1"}, "^https://example.org/1 is a URL"),
        ({"question": "Q", "response": {"steps": "ab", "process_correctness": [1, 1]}}, "object with a list of steps"),
        ({"question": "Q", "response": {"text": "a"}}, "object with a list of steps"),
        ({"conversations": [{"from": "human", "value": "hello"}]}, "must hold '### Question:'"),
        ({"conversations": [{"from": "user", "value": "hello"}]}, "a turn from user, known are system, human, gpt"),
        ({"conversations": [{"value": "hello"}]}, "a turn from None, known"),
        ({"question": "Q", "responses": ["r"], "max_num": 6}, "max_num is not read: write max_tiles"),
        ({"question": "Q", "responses": ["r"], "maxPatches": 6}, "maxPatches is not read: write max_tiles"),
        ({"question": "Q", "responses": ["r"], "use_thumbnail": False}, "use_thumbnail is not read from a row"),
        ({"question": "Q", "responses": ["r"], "system_message": "S"}, "vprm export --system-message"),
        ({"question": "Q", "responses": ["r"], "system": "S"}, "system is not read from a row"),
        ({"question": "Q", "responses": ["r"], "image": "data:image/png;base64,é"}, "not valid base64"),
        (
            {"question": "Q", "responses": ["r"], "decoded_image": "a.png", "decodedImage": "a.png"},
            "decoded_image and decodedImage, and differ",
        ),
        (
            {"question": "Q", "responses": ["r"], "decoded_image": "a.png", "decodedImage": "a.png", "image": "b.png"},
            "and differ",
        ),
    ],
)
def test_what_is_wrong_is_named(record: object, message: str) -> None:
    """Bad records raise InputError that says which key and what to do."""
    with pytest.raises(InputError, match=message):
        row_from_record(record, 0, ROOT)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"responses": ["r"], "answer": float("inf")}, "answer is infinite"),
        ({"responses": ["r"], "answer": b"bytes"}, "answer is bytes"),
        ({"responses": ["r"], "correct": {1, 2}}, "true or false for each"),
        ({"steps_with_score": [{"step": "a", "score": float("inf")}]}, "without a numeric score"),
        ({"steps_with_score": [{"step": "a", "score": "high"}]}, "without a numeric score"),
        ({"steps_with_score": [{"step": "a"}]}, "without a numeric score"),
        ({"response": {"steps": ["a", "b"], "process_correctness": [1]}}, "1 labels for 2 steps"),
        ({"response": {"steps": ["a"], "process_correctness": [2]}}, "must be a list of 1"),
        ({"response": {"steps": ["a"], "process_correctness": "+"}}, "must be a list of 1"),
        (
            {"responses": [["a", "b"]], "process_correctness": [[1]]},
            "response 0: process_correctness has 1 labels for 2",
        ),
        ({"responses": ["a"], "process_correctness": [[1], [1]]}, "2 entries for 1 responses"),
        ({"responses": ["a"], "process_correctness": [2]}, "must be a list of 1"),
        ({"responses": ["a"], "process_correctness": ["+"]}, "must be a list of 1"),
        ({"responses": ["a"], "process_correctness": [[True]]}, "must be a list of 1"),
        ({"responses": ["a"], "process_correctness": {"0": 1}}, "must be a list for each response"),
        ({"responses": ["a"], "process_correctness": 1}, "must be a list for each response"),
        ({"responses": ["a"], "correct": [True, False]}, "each of 1 responses, got 2 entries"),
        ({"responses": ["a"], "correct": "yes"}, "each of 1 responses, got str"),
        ({"responses": ["a"], "correct": ["yes"]}, "true or false for each response, got str"),
        ({"responses": ["a"], "correct": [0.5]}, "got 0.5"),
        (
            {"conversations": [{"from": "human", "value": "### Question:\nQ\n\n### Solution Process:\na"}]},
            "1 human turns and 0 answers",
        ),
    ],
)
def test_wrong_labels_do_not_cost_a_row_its_scores(record: dict[str, Any], message: str) -> None:
    """Only evaluation needs labels; it leaves such rows out and says why."""
    row = row_from_record({"question": "Q", **record}, 0, ROOT)
    assert row.label_error is not None and message in row.label_error
    assert (len(row.responses), row.labels) == (1, {})


def test_labels_become_values_that_json_has() -> None:
    """What pandas, pyarrow and YAML readers give: missing numbers, dates, decimals."""
    record = {
        "question": "Q",
        "responses": ["r", "s"],
        "answer": decimal.Decimal("2.50"),
        "correct": [True, float("nan")],
        "policy_model": datetime.date(2025, 3, 1),
        "data_source": float("nan"),
    }
    row = row_from_record(record, 0, ROOT)
    assert row.labels == {"answer": 2.5, "correct": [True, None], "policy_model": "2025-03-01"}
    assert row_from_record({**record, "answer": decimal.Decimal(7)}, 0, ROOT).labels["answer"] == 7
    assert "answer" not in row_from_record({**record, "answer": decimal.Decimal("sNaN")}, 0, ROOT).labels
    for infinite in (decimal.Decimal("-Infinity"), float("inf")):
        assert "answer is infinite" in str(row_from_record({**record, "answer": infinite}, 0, ROOT).label_error)


@pytest.mark.parametrize(
    ("responses", "given", "labels"),
    [
        (["a"], [1, -1], [[1, -1]]), (["a"], [[1, -1]], [[1, -1]]), (["a", "b"], [[1], None], [[1], None]),
        ([["a", "b"], "c"], [[1.0, 0.0], [-1]], [[1, 0], [-1]]), (["a"], [None], [None]),
    ],
)  # fmt: skip
def test_labels_of_steps_in_their_forms(responses: list[Any], given: list[Any], labels: list[Any]) -> None:
    record = {"question": "Q", "responses": responses, "process_correctness": given, "correct": [1] * len(responses)}
    row = row_from_record(record, 0, ROOT)
    assert (row.label_error, row.labels["process_correctness"]) == (None, labels)
    assert row_from_record({"question": "Q", "response": "r", "correct": True}, 0, ROOT).labels == {"correct": [True]}


def test_numbers_as_pandas_has_them() -> None:
    """A column of integers with a missing value is one of floats."""
    row = row_from_record({"question": "Q", "responses": ["r"], "id": 7.0, "max_steps": 3.0}, 0, ROOT)
    assert (row.id, row.max_steps) == (7, 3)
    nan = float("nan")
    row = row_from_record({"question": "Q", "responses": ["r"], "id": nan, "max_steps": nan, "image": nan}, 4, ROOT)
    assert (row.id, row.max_steps, row.images) == (4, None, ())
