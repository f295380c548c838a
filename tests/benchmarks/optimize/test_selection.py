"""Rows are split by question, never by row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vprm_demo import example
from vprm_optimize.selection import ChosenRows, Selection, limited, split_by_question
from vprm_runtime.datasets.row import Row
from vprm_runtime.errors import InputError


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def questions(selection: Selection) -> tuple[set[str], set[str]]:
    sides = (selection.calibration, selection.judging)
    first, second = ({row.question for row in ChosenRows(side) if isinstance(row, Row)} for side in sides)
    return first, second


@given(counts=st.lists(st.integers(1, 6), min_size=2, max_size=40))
def test_no_question_is_on_both_sides(counts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [
        {"question": f"Question {number}?", "responses": [[f"Step {copy}."]]}
        for number, count in enumerate(counts)
        for copy in range(count)
    ]
    selection = split_by_question([write(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)], None)
    calibration, judging = questions(selection)
    assert calibration and judging
    assert not calibration & judging
    assert sum(len(one.numbers) for one in selection.calibration) <= 32


def test_copies_of_an_image_under_two_names_are_one_question(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(example().image, tmp_path / name)
    rows = [{"image": name, "question": "Which?", "responses": [["A."]]} for name in ("a.png", "b.png", "c.png")]
    with pytest.raises(InputError, match="1 question that"):
        split_by_question([write(tmp_path / "rows.jsonl", rows)], None)
    more = [*rows, {"question": "Which?", "responses": [["A."]]}]
    selection = split_by_question([write(tmp_path / "more.jsonl", more)], None)
    assert ChosenRows(selection.calibration).total in (1, 3)


def test_the_split_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{"question": f"Question {number}?", "responses": [["A."]]} for number in range(30)]
    one = split_by_question([write(tmp_path / "a.jsonl", rows)], None)
    other = split_by_question([write(tmp_path / "b.jsonl", rows[::-1])], None)
    assert questions(one) == questions(other)


def test_rows_to_judge_are_taken_from_every_file(tmp_path: Path) -> None:
    files = []
    for name, count in (("a", 100), ("b", 20)):
        rows = [{"question": f"{name} {number}?", "responses": [["A."]]} for number in range(count)]
        files.append(write(tmp_path / f"{name}.jsonl", rows))
    fewer = limited(split_by_question(files, None), 24)
    assert {Path(one.file).name for one in fewer.judging} == {"a.jsonl", "b.jsonl"}
    assert sum(len(one.numbers) for one in fewer.judging) == 24


def test_a_selection_survives_json(tmp_path: Path) -> None:
    rows = [{"question": f"Question {number}?", "responses": [["A."]]} for number in range(5)]
    selection = split_by_question([write(tmp_path / "a.jsonl", rows)], None)
    assert Selection.from_dict(json.loads(json.dumps(selection.to_dict()))) == selection
