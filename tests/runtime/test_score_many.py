"""Many questions in one call: grouped by prefix, results in input order, bad rows apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vprm_runtime import InputError, StepScorer
from vprm_runtime.datasets.row import row_from_record
from vprm_runtime.engines.base import EngineProxy

CLOSE = 2e-6


def test_results_are_those_of_single_calls_in_input_order(
    scorer: StepScorer, make_image: Callable[..., Image.Image], tmp_path: Path
) -> None:
    encoded: list[int] = []

    class Counting(EngineProxy):
        def encode_tiles(self, tiles: np.ndarray) -> Any:
            encoded.append(len(tiles))
            return super().encode_tiles(tiles)

    counted = scorer.with_engine(Counting(scorer.engine))
    make_image(seed=1).save(tmp_path / "a.png")
    make_image(seed=2).save(tmp_path / "b.png")
    record = {"image": "a.png", "question": "How many?", "responses": ["One.\n\nTwo.", ["Three."]]}
    rows: list[Any] = [
        record,
        {"image": "b.png", "question": "How many?", "responses": ["One."]},
        (tmp_path / "b.png", "How many?", ["Four.", []]),
        (make_image(seed=3), "Which?", ["Five."]),
        row_from_record({**record, "responses": ["Six.\n\nSeven.\n\nEight."], "max_steps": 2}, 4, tmp_path),
        (None, "Which?", ("Nine.",)),
        (np.asarray(make_image(seed=3)), "Which?", ["Ten."]),
    ]
    seen: list[tuple[int, int]] = []
    found = list(
        counted.score_many(rows, image_root=tmp_path, aggregate="min", progress=lambda d, t: seen.append((d, t)))
    )
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    images = [a, b, b, make_image(seed=3), a, None, make_image(seed=3)]
    texts = [record["responses"], ["One."], ["Four.", []], ["Five."], ["Six.\n\nSeven.\n\nEight."], ["Nine."], ["Ten."]]
    questions = ["How many?"] * 3 + ["Which?", "How many?", "Which?", "Which?"]
    most_steps = [2 if number == 4 else None for number in range(7)]
    for result, image, question, responses, most in zip(found, images, questions, texts, most_steps, strict=True):
        alone = scorer.score(image, question, responses, aggregate="min", max_steps=most)
        np.testing.assert_allclose(result.scores, alone.scores, rtol=0, atol=CLOSE)
        assert [c.index for c in result] == list(range(len(responses)))
        assert result.tiles == alone.tiles
    assert len(encoded) == 4  # a.png once; b.png by name and as a path once each at most; the third twice by type
    assert seen[-1] == (7, 7)


def test_a_bad_row_carries_its_error(scorer: StepScorer, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"image": "none.png", "question": "How many?", "responses": ["One.", "Two."]},
        {"question": "How many?", "responses": ["One."]},
        {"question": " ", "responses": ["One."]},
        {"question": "How many?"},
        ("x.png", "How many?", "One."),
        7,
        {"question": "How many?", "responses": ["word " * 100_000, "One."]},
    ]
    found = list(scorer.score_many(rows, image_root=tmp_path))
    assert [len(result) for result in found] == [2, 1, 1, 0, 0, 0, 2]
    assert [candidate.code for candidate in found[0]] == ["invalid_input"] * 2
    assert "no image file at" in str(found[0][1].error)
    assert found[1][0].error is None
    assert "question is empty" in str(found[2][0].error)
    assert found[6][0].code == "prompt_too_long"
    assert found[6][1].score == pytest.approx(found[1][0].score, abs=CLOSE)
    assert list(scorer.score_many([])) == []
    with pytest.raises(InputError, match="unknown aggregate"):
        list(scorer.score_many([], aggregate="median"))  # type: ignore[arg-type]


def test_what_a_user_should_know_of_rows_is_said_once(scorer: StepScorer, caplog: pytest.LogCaptureFixture) -> None:
    """As for a file of rows, whatever a row is given as."""
    fresh = scorer.with_engine(scorer.engine)
    row = {"id": 4, "question": "Q", "responses": ["One.\nTwo."], "answr": "2", "chosen": "x"}
    rows: list[Any] = [row, row_from_record(row, 1, Path()), {**row, "id": 5}, (None, "Q", ["One.\nTwo."])]
    for _ in range(3):
        list(fresh.score_many(rows))
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:2] == [
        "keys that are not read: answr (did you mean answer?), chosen (another key is read instead)",
        "1 rows have an id that an earlier row has: tell them apart by `row`",
    ]
    assert messages[2].startswith("every response is one step although it has line breaks")
    assert len(messages) == 3
