"""Files of rows in every encoding and shape that JSON has: the same rows, or refused by the true reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vprm_runtime import InputError
from vprm_runtime.datasets import open_rows
from vprm_runtime.datasets.row import Row

ROWS: list[dict[str, Any]] = [
    {
        "id": f"row {number}",
        "question": f"Wie viele? 答案 {number}",
        "responses": ["One.\n\nTwo.", ["a"]][: 1 + number % 2],
    }
    for number in range(6)
]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
BY_INDEX = {key: {str(number): value for number, value in enumerate(column)} for key, column in COLUMNS.items()}
SPLIT = {"columns": list(COLUMNS), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}
FILES: dict[str, bytes] = {
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-16, big end first, without a mark": TEXT.encode("utf-16-be"),
    "UTF-16 after blank lines": f"\n \n{TEXT}".encode("utf-16-le"),
    "UTF-32": TEXT.encode("utf-32"),
    "UTF-32 without a mark": TEXT.encode("utf-32-be"),
    "UTF-16, compressed": gzip.compress(TEXT.encode("utf-16-le")),
    "UTF-16 array": json.dumps(ROWS).encode("utf-16-be"),
    "objects over several lines": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "objects without line breaks": "".join(map(json.dumps, ROWS)).encode(),
    "carriage returns": TEXT.replace("\n", "\r").encode(),
    "array with a mark": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode(),
    "several arrays": f"{json.dumps(ROWS[:2])}\n{json.dumps(ROWS[2:])}".encode(),
    "wrapped, another key first": json.dumps({"version": 1, "data": ROWS}).encode(),
    "columns": json.dumps(COLUMNS).encode(),
    "columns over several lines": json.dumps(COLUMNS, indent=1).encode(),
    "columns by index, as pandas writes them": json.dumps(BY_INDEX).encode(),
    "columns and data, as pandas writes them": json.dumps(SPLIT).encode(),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_shape_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rows.jsonl").write_text(TEXT, "utf-8")
    (tmp_path / "other").write_bytes(FILES[kind])
    found = list(open_rows(tmp_path / "other"))
    assert found == list(open_rows(tmp_path / "rows.jsonl"))
    assert len(found) == len(ROWS)


def test_a_single_row_over_several_lines(tmp_path: Path) -> None:
    row = {"id": "a", "question": "Q", "responses": ["r", ["s", "t"]], "conversations": None}
    for indent in (None, 4):
        (tmp_path / "row.json").write_text(json.dumps(row, indent=indent))
        (found,) = open_rows(tmp_path / "row.json")
        assert isinstance(found, Row)
        assert (found.id, found.question, found.responses) == ("a", "Q", ("r", ["s", "t"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "question": "Q",\n "responses": ["r"', "begins as a JSON object over several lines but is not whole"),
        ('[{"question": "Q"}', "begins as a JSON array but is not whole"),
        ('{"question": ["Q", "R"], "responses": [["r"]]}', "columns of other lengths"),
        ('{"question": ["Q"], "responses": "r"}', "responses is none"),
        ('{"question": {"0": "Q"}, "responses": {"1": ["r"]}}', "columns of other lengths or indices"),
        ('{"columns": ["question"], "data": [["Q", 1]]}', "not as long as columns"),
        ("[1, 2] 3", "holds 3, no row"),
        ("[]", "empty JSON array"),
        (TEXT.encode("utf-16-le")[:-1], "damaged UTF-16"),
        (b"\x00\x00\x00\x20ftypisom", "neither jsonl nor parquet"),
    ],
)
def test_documents_that_are_not_whole(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "rows.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        open_rows(tmp_path / "rows.json")


@pytest.mark.parametrize(
    "bad", ['{"question": "Q", "resp', "{", '{"question": "Q",', '{"question": "Q", "responses": [', "{\xff}"]
)
def test_a_damaged_first_line_costs_one_row(tmp_path: Path, bad: str) -> None:
    """jsonl stays jsonl: a line that is cut off is one bad row, wherever it is."""
    (tmp_path / "rows.jsonl").write_bytes(f"{bad}\n".encode("latin-1") + TEXT.encode())
    assert [type(row).__name__ for row in open_rows(tmp_path / "rows.jsonl")] == ["BadRow"] + ["Row"] * len(ROWS)


@pytest.mark.parametrize("make", [json.dumps, lambda row: json.dumps(row, indent=1)])
def test_labels_and_keys_are_checked_in_every_shape(
    tmp_path: Path, make: Callable[[Any], str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "correct": [True] * 9, "answr": "4"} for row in ROWS]
    (tmp_path / "rows.json").write_text("\n".join(map(make, rows)))
    assert all(
        "got 9 entries" in str(row.label_error) for row in open_rows(tmp_path / "rows.json") if isinstance(row, Row)
    )
    assert "keys that are not read: answr (did you mean answer?)" in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"has_image": True}, "has_image says that there is an image"),
        ({"image_id": 0}, "image_id says that there is an image"),
        ({"image_ids": [4]}, "image_ids says that there is an image"),
        ({"num_images": 2.0}, "num_images says that there is an image"),
        ({"max_step": 3}, "max_step is not read: write max_steps"),
        ({"aggregate": "min"}, "aggregate is not read from a row"),
        ({"figure": "a.png"}, "figure looks like an image"),
    ],
)
def test_columns_of_every_type_are_looked_at(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    """What a row of jsonl is refused for, a row of parquet is, whatever the column's type."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {"question": "Q", "responses": ["r"], **more, "pixels": [[0.5, 1.0]]}
    parquet.write_table(pyarrow.Table.from_pylist([{**row, **dict.fromkeys(more)}, row]), tmp_path / "rows")
    good, bad = open_rows(tmp_path / "rows")
    assert isinstance(good, Row)
    assert message in getattr(bad, "error", "")


def test_a_second_key_of_responses_in_parquet_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {"question": "Q", "responses": ["r"]}
    table = pyarrow.Table.from_pylist([{**row, "response": None}, {**row, "response": "s"}, {**row, "response": "t"}])
    parquet.write_table(table, tmp_path / "rows")
    for _ in range(2):
        assert len(list(open_rows(tmp_path / "rows"))) == 3
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "row 1: response (another key is read instead) is not read"
    ]
