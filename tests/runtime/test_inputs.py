"""What callers of the Python API really have: arrays, columns, scalars, buffers, and a bad response among good ones."""

from __future__ import annotations

import base64
import io
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vprm_runtime import InputError, StepScorer, select_best_response
from vprm_runtime.datasets.row import row_from_record
from vprm_runtime.inputs import images_of, list_of

TEXTS = ["It is 3.\n\nSo 9.", "It is 4."]
pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def scorer(random_scorer: Callable[[str], StepScorer]) -> StepScorer:
    return random_scorer("qwen2")


@pytest.mark.parametrize(
    "responses",
    [
        np.array(TEXTS, dtype=object),
        np.array(TEXTS),
        tuple(TEXTS),
        deque(TEXTS),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
        [np.str_(text) for text in TEXTS],
        [tuple(text.split("\n\n")) for text in TEXTS],
        [np.array(text.split("\n\n"), dtype=object) for text in TEXTS],
        [np.array(text.split("\n\n")) for text in TEXTS],
        pyarrow.array(TEXTS),
        pyarrow.chunked_array([TEXTS[:1], TEXTS[1:]]),
        list(pyarrow.array(TEXTS)),
        [pyarrow.scalar(text.split("\n\n")) for text in TEXTS],
        [pyarrow.array(text.split("\n\n")) for text in TEXTS],
        [np.array(text) for text in TEXTS],
    ],
    ids=lambda value: type(value).__name__ + (f"-{type(value[0]).__name__}" if hasattr(value, "__getitem__") else ""),
)
def test_sequences_are_sequences_and_texts_are_texts(scorer: StepScorer, responses: Any) -> None:
    expected = scorer.score(None, "How much?", TEXTS)
    result = scorer.score(None, "How much?", responses)
    assert result == expected
    assert all(type(step.text) is str for candidate in result for step in candidate.steps)
    json.dumps(result.to_dict(0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "got NoneType"),
        (float("nan"), "got float"),
        ([], "no steps"),
        ([None], "step of NoneType"),
        (["ok", 5], "step of int"),
        (b"bytes", "got bytes"),
        ({"steps": ["a"]}, "got dict"),
        ({"a", "b"}, "got set"),
        (object(), "got object"),
        (["\ud800"], "not valid Unicode"),
        (np.zeros(2), "step of"),
    ],
)
def test_a_bad_response_carries_its_error_and_the_others_their_scores(
    scorer: StepScorer, bad: Any, message: str
) -> None:
    expected = scorer.score(None, "How much?", TEXTS)
    result = scorer.score(None, "How much?", [TEXTS[0], bad, TEXTS[1]])
    assert [candidate.score for candidate in result if candidate.index != 1] == [c.score for c in expected]
    assert result[1].score is None
    assert message in (result[1].error or "")
    arrays = np.empty(2, dtype=object)
    arrays[:] = [TEXTS[0], bad]
    assert message in (scorer.score(None, "How much?", arrays)[1].error or "")


class Frame:
    """A data frame, as far as iteration goes: it gives the names of its columns."""

    columns = ("response",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    "responses",
    [
        "one text",
        None,
        5,
        {"a": "b"},
        {"a"},
        b"bytes",
        np.array("one"),
        [],
        Frame(),
        pyarrow.table({"response": TEXTS}),
    ],
)
def test_what_is_no_list_of_responses_is_refused(scorer: StepScorer, responses: Any) -> None:
    with pytest.raises(InputError, match="responses must be a list"):
        scorer.score(None, "How much?", responses)
    if not isinstance(responses, list):
        with pytest.raises(InputError, match="alternatives must be a list"):
            scorer.session(None, "How much?").score_next(responses)


def test_questions_of_other_kinds(scorer: StepScorer) -> None:
    expected = scorer.score(None, "How much?", TEXTS)
    for question in (np.str_("How much?"), pyarrow.scalar("How much?"), np.array("How much?")):
        assert scorer.score(None, question, TEXTS) == expected
    with pytest.raises(InputError, match="the question must be text, got NoneType"):
        scorer.score(None, None, TEXTS)  # type: ignore[arg-type]


def test_steps_of_a_session(scorer: StepScorer) -> None:
    with scorer.session(None, "How much?") as session:
        alternatives = np.array(["It is 3.", None], dtype=object)
        result = session.score_next(alternatives)  # type: ignore[arg-type]
        assert result[0].score is not None
        assert "got NoneType" in (result[1].error or "")
        assert session.append(np.str_("It is 3.")).score == result[0].score


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("prefix_cache_bytes", [0, 1 << 24])
def test_images_of_every_kind(
    demo_bundle: Path, make_image: Callable[..., Image.Image], tmp_path: Path, prefix_cache_bytes: int
) -> None:
    image = make_image(200, 120)
    content = encoded(image)
    (tmp_path / "a.png").write_bytes(content)
    text = base64.b64encode(content).decode()
    kinds: list[Any] = [
        tmp_path / "a.png", str(tmp_path / "a.png"), content, bytearray(content), memoryview(content), text,
        f"data:image/png;base64,{text}", f"DATA:image/png;BASE64,{text}", {"bytes": content, "path": None},
        np.array(str(tmp_path / "a.png")), np.array([str(tmp_path / "a.png")]),
        {"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": text},
        {"url": f"data:image/png;base64,{text}"}, io.BytesIO(content), np.asarray(image), image,
        np.str_(text), pyarrow.scalar({"bytes": content, "path": None}), np.asarray(image.convert("RGBA")),
        np.asarray(image)[None], np.array([{"bytes": content}], dtype=object), [image], (image,),
        pyarrow.array([content]),
    ]  # fmt: skip
    with StepScorer.open(demo_bundle, prefix_cache_bytes=prefix_cache_bytes) as scorer:
        expected = scorer.score(image, "How much?", TEXTS)
        for kind in kinds:
            assert scorer.score(kind, "How much?", TEXTS) == expected, type(kind)
        grey = image.convert("L")
        assert scorer.score(np.asarray(grey), "Q?", TEXTS) == scorer.score(grey, "Q?", TEXTS)
        assert scorer.score(np.asarray(grey)[..., None], "Q?", TEXTS) == scorer.score(grey, "Q?", TEXTS)


@pytest.mark.parametrize("nothing", [None, "", [], (), float("nan")])
def test_no_image(scorer: StepScorer, nothing: Any) -> None:
    assert scorer.score(nothing, "How much?", TEXTS) == scorer.score(None, "How much?", TEXTS)


@pytest.mark.parametrize(
    "image",
    [
        "iVBORw0KGgo" + "!" * 400_000,
        "data:image/png;base64," + "?" * 400_000,
        "data:image/svg+xml,<svg/>" * 10_000,
        "x" * 400_000,
        "https://example.org/" + "x" * 400_000,
        {"path": "y" * 400_000},
        np.zeros((3, 40, 40), np.uint8),
        np.zeros((40, 40, 3), np.float32),
        np.zeros((40, 40, 7), np.uint8),
        {"neither": 1},
        b"",
        {"bytes": b"", "path": None},
        [b""],
        3,
        [[1, 2], [3, 4]],
    ],
    ids=lambda value: repr(value)[:30],
)
def test_messages_about_images_are_one_short_line(scorer: StepScorer, image: Any) -> None:
    """However long the input, at most 200 characters of it are quoted."""
    with pytest.raises(InputError) as caught:
        scorer.score(image, "How much?", TEXTS)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


class NAType:
    """pandas' missing value: comparing it gives itself, which is neither true nor false."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class NaTType(NAType):
    """pandas' missing time."""


@pytest.mark.parametrize("missing", [NAType(), NaTType()])
@pytest.mark.parametrize("key", ["id", "image", "max_steps", "max_tiles", "answer", "correct", "note"])
def test_missing_values_of_pandas(scorer: StepScorer, key: str, missing: Any) -> None:
    expected = scorer.score(None, "How much?", TEXTS)
    (result,) = scorer.score_many([{"question": "How much?", "responses": TEXTS, key: missing}])
    assert result == expected


def test_records_and_triples_of_data_frames(scorer: StepScorer, make_image: Callable[..., Image.Image]) -> None:
    """score_many: rows as pandas, NumPy, pyarrow and datasets hand them over."""
    image = make_image(90, 70)
    expected = scorer.score(image, "How much?", TEXTS)
    record = {"id": np.int64(3), "question": np.str_("How much?"), "max_tiles": np.int32(12), "max_steps": np.nan}
    rows: list[Any] = [
        {**record, "image": image, "responses": np.array(TEXTS, dtype=object)},
        {**record, "image": [{"bytes": encoded(image), "path": None}], "responses": pyarrow.array(TEXTS)},
        {**record, "image": np.asarray(image), "responses": tuple(TEXTS)},
        {**record, "image": {"bytes": memoryview(encoded(image))}, "responses": [np.str_(text) for text in TEXTS]},
        (np.asarray(image), np.str_("How much?"), np.array(TEXTS)),
        ({"bytes": encoded(image)}, pyarrow.scalar("How much?"), pyarrow.array(TEXTS)),
        ([image], "How much?", (text for text in TEXTS)),
    ]
    for result in scorer.score_many(rows):
        assert result.tiles == expected.tiles
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)  # packed with other rows
    (bad,) = scorer.score_many([(image, None, np.array(TEXTS))])  # type: ignore[list-item]
    assert ["question must be text" in (candidate.error or "") for candidate in bad] == [True, True]


def test_the_model_cards_call_takes_them_too(scorer: StepScorer) -> None:
    expected = select_best_response(scorer, "How much?", TEXTS, return_scores=True)
    for given in (np.array(TEXTS), tuple(TEXTS), (text for text in TEXTS), pyarrow.array(TEXTS)):
        assert select_best_response(scorer, "How much?", given, return_scores=True) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "record",
    [
        {"k" * 5000: 1, "question": "Q"},
        {f"key{number}": 1 for number in range(2000)},
        {"question": "Q", "responses": ["r"], "image" + "_figure" * 900: "x.png"},
        {"question": "Q", "responses": ["r"], "image": "a.png", "image_path": "b" * 9000},
        {"question": "Q", "responses": ["r"], "image": "data:image/png;base64," + "?" * 90_000},
        {"question": "Q", "responses": ["r"], "image": "https://example.org/" + "x" * 90_000},
        {"question": "Q", "responses": ["r"], "id": [1] * 9000},
    ],
    ids=lambda record: str(record)[:30],
)
def test_messages_about_rows_are_one_short_line(record: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        row_from_record(record, 0, Path("images"))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_lists_and_images_by_name() -> None:
    assert list_of(range(3), "x") == [0, 1, 2]
    assert images_of(["a.png", "b.png"]) == ["a.png", "b.png"]
    assert len(images_of(np.zeros((2, 4, 4, 3), np.uint8))) == 2
