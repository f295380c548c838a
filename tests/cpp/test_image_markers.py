"""The marks for images that a question without images must not have are Python's, in random texts around them."""

from __future__ import annotations

import random

from tests.cpp.conftest import Runner

from vprm_runtime import InputError
from vprm_runtime.prompt.image_markers import check_no_lost_image

PARTS = (
    *(
        "<",
        "[",
        "|",
        ">",
        "]",
        "/",
        "_",
        " ",
        ":",
        "#",
        "-",
        "1",
        "12",
        "1234",
        "image",
        "IMAGE",
        "img",
        "Picture",
        "photo",
    ),
    *(
        "pad",
        "placeholder",
        "start",
        "sentinel",
        "here",
        "token",
        "soft",
        "vision",
        "_context",
        "x",
        "\u0130",
        "\u017f",
    ),
    *(
        "<image>",
        "<Image>",
        "<image 1>",
        "[img]",
        "<|image_pad|>",
        "<|vision_start|>",
        "<image_soft_token>",
        "<image />",
        "![",
        "](",
        ")",
        "<img>",
        ".png",
        ".TIFF",
        "</img>",
        "\\includegraphics",
        "&lt;image&gt;",
        "\n",
        "\u7b54",
    ),
)


def mark_of(question: str) -> str | None:
    """Python's, or None."""
    try:
        check_no_lost_image(question)
    except InputError as error:
        return str(error).removeprefix("the question has ").split(" and there is no image: ")[0]
    return None


def test_marks_of_random_questions(runner: Runner) -> None:
    source = random.Random(0)
    questions = ["".join(source.choice(PARTS) for _ in range(source.randrange(1, 9))) for _ in range(20000)]
    expected = [mark_of(question) for question in questions]
    assert 2000 < sum(mark is not None for mark in expected) < 18000
    found = runner("image_marks", texts=questions)
    different = [case for case in zip(questions, found, expected, strict=True) if case[1] != case[2]]
    assert not different, different[0]
