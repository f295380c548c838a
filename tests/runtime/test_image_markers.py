"""Marks for images that other models' prompts have: refused without an image, told about beside images that differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vprm_runtime import InputError, StepScorer
from vprm_runtime.datasets.row import row_from_record
from vprm_runtime.prompt.image_markers import check_no_lost_image, remark_on_marks

LOST = (
    "<image 1>", "<image_1>", "<image1>", "<Image 12>", "<img_3>", "<|image_1|>", "<picture 1>", "[image 2]", "[IMG_1]",
    "<|image|>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "[IMG]", "[Image]", "<Image>",
    "<IMAGE>", "<image/>", "<image_placeholder>", "<ImageHere>", "<image_soft_token>", "<image_token>",
    "![](a.png)", "![the figure](images/1.jpg)", "![x](data:image/png;base64,iVBO)", "\\includegraphics[width=3cm]{a}",
    "<img>images/a.jpg</img>", "&lt;image&gt;", "<image: 1>", "<image #1>", "<image-1>",
)  # fmt: skip
TEXT = (
    "What does the <img> tag do?", 'Is <img src="a.png"> closed?', "Compare image 1 and image 2.", "a < image > b",
    "array[1] and x[image_index]", "the <imagery> tag", "<images>", "See [Figure 1].", "<picture>", "1 < 2",
    "<IMG_CONTEXT><img></img>",
    "5![1] (x)", "<img>bold</img>", "![]()",
)  # fmt: skip


@pytest.mark.parametrize("mark", LOST)
def test_a_mark_without_an_image_is_refused_by_name(mark: str) -> None:
    with pytest.raises(InputError, match="and there is no image: give the image, or take the mark out") as caught:
        check_no_lost_image(f"See {mark}: how many?")
    assert mark[:2].lower() in str(caught.value).lower()


@pytest.mark.parametrize("text", TEXT)
def test_other_text_is_no_mark(text: str) -> None:
    check_no_lost_image(text)
    assert remark_on_marks(text, 1) is None


@pytest.mark.parametrize(
    ("question", "images", "words"),
    [
        ("<image 1> How many?", 1, None),
        ("<image 1> and again <image 1>", 1, None),
        ("Compare <image 1> with <image 2>.", 2, None),
        ("<image>\n<image 1> How many?", 1, None),
        ("<image>\n<image>\nIs <image 1> red?", 2, None),
        ("<image>\n<image 2> How many?", 1, "are not as many as the images"),
        ("<image 2> How many?", 1, "are not as many as the images"),
        ("Compare <image 1> with <image 2>.", 1, "(<image 2> ...) are not as many as the images"),
        ("<image 1> How many?", 2, "are not as many as the images"),
        ("<|image|> How many?", 1, "<|image|> in the question is text to this model"),
        ("<Image> How many?", 1, "write <image> for an image"),
        ("How many?", 2, None),
        ("<image 1> How many?", 0, None),
    ],
)
def test_marks_beside_images(question: str, images: int, words: str | None) -> None:
    remark = remark_on_marks(question, images)
    assert (remark is None) if words is None else (words in str(remark))
    record = {"question": question, "responses": ["r"], "image": ["a.png"] * images}
    assert row_from_record(record, 0, Path()).remarks == (() if remark is None else (remark,))


def test_every_way_to_score_refuses_a_lost_image(scorer: StepScorer, tmp_path: Path) -> None:
    question = "<image 1> How many?"
    for images in (None, [], ""):
        with pytest.raises(InputError, match="there is no image"):
            scorer.score(images, question, ["One."])
    with pytest.raises(InputError, match="there is no image"):
        scorer.session(None, question)
    with pytest.raises(InputError, match="there is no image"):
        scorer.prepare(question, [], "One.")
    rows: list[Any] = [{"question": question, "responses": ["One."]}, (None, question, ["One."])]
    assert all("there is no image" in str(result[0].error) for result in scorer.score_many(rows))


def test_marks_that_do_not_fit_are_told_once(
    scorer: StepScorer, make_image: Callable[..., Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    with_image = scorer.with_engine(scorer.engine)
    for _ in range(2):
        with_image.score(make_image(), "Is <image 1> like <image 2>?", ["One."])
    assert [record.getMessage() for record in caplog.records if "not as many" in record.getMessage()] == [
        "the question's marks for images (<image 2> ...) are not as many as the images: they are text"
    ]
