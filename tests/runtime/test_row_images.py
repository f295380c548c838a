"""Under which keys a row's images are found, and which keys are refused because they look like an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.rows import png

from vprm_runtime import InputError
from vprm_runtime.datasets.row import row_from_record

ROOT = Path("images")


IMAGE_SPELLINGS = (
    *("image", "images", "Image", "IMAGES", "img", "imgs", "image_path", "image_paths", "imagePath", "image-path"),
    *("image_file", "image_url", "image_urls", "img_path", "input_image", "input_images", "picture", "pictures"),
    *("photo", "image_1", "image1", "img_7", "image_path_1", "image_bytes", "image_base64", "image_list"),
)


@pytest.mark.parametrize("key", IMAGE_SPELLINGS)
def test_known_spellings_of_the_image_key(key: str) -> None:
    base = {"question": "<image>\nQ", "responses": ["r"]}
    content = png()
    for value, expected in (("a.png", ROOT / "a.png"), (content, content), ({"bytes": content}, content)):
        assert row_from_record({**base, key: value}, 0, ROOT).images == (expected,)
    for empty in ("", None, [], [""], [None], {}, {"bytes": None, "path": None}, float("nan")):
        assert row_from_record({**base, key: empty}, 0, ROOT).images == ()


def test_numbered_image_keys_in_the_order_of_their_numbers() -> None:
    """MMMU: image_1 to image_7, most of them null, beside img_type."""
    numbered = {f"image_{n}": None for n in range(1, 8)} | {"image_10": "j.png", "image_2": "b.png", "image_1": "a.png"}
    row = row_from_record({"question": "Q", "responses": ["r"], "img_type": "['Plots']", **numbered}, 0, ROOT)
    assert row.images == (ROOT / "a.png", ROOT / "b.png", ROOT / "j.png")
    assert row.unread == ("img_type",)


def test_images_under_several_keys() -> None:
    """The same twice is one; a decoded image goes before its path; anything else is refused by name."""
    base = {"question": "Q", "responses": ["r"]}
    assert row_from_record({**base, "image": "a.png", "image_path": "a.png"}, 0, ROOT).images == (ROOT / "a.png",)
    content = png()
    row = row_from_record({**base, "image": "a.png", "decoded_image": {"bytes": content, "path": None}}, 0, ROOT)
    assert row.images == (content,)
    for other in ({"image_path": "b.png"}, {"image_1": "b.png"}, {"image_1": "a.png", "image_2": "b.png"}):
        with pytest.raises(InputError, match=r"images stand under image and image_\w+, and differ"):
            row_from_record({**base, "image": "a.png", **other}, 0, ROOT)
    with pytest.raises(InputError, match="keep one"):
        row_from_record({**base, "image_1": "a.png", "image1": "b.png"}, 0, ROOT)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("figure", "fig1.png"), ("Diagram", "x"), ("screenshot", "shot"), ("question_image_file_path", "a"),
        ("file", "a.jpg"), ("path", "dir/a.webp"), ("media", ["a.png", "b.png"]), ("visual", {"path": "a.png"}),
        ("attachment", {"bytes": b"\x89PNG...", "path": None}), ("blob", b"\xff\xd8\xff\xe0"), ("img_filepath", "x"),
        ("uri", "data:image/png;base64,AAAA"), ("link", "https://example.org/a.png?size=9"), ("pixel_values", ["1"]),
    ],
)  # fmt: skip
def test_other_keys_that_look_like_an_image_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{key} looks like an image"):
        row_from_record({"question": "Q", "responses": ["r"], key: value}, 0, ROOT)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("img_type", "photo"), ("num_images", 0), ("has_image", False), ("image_id", None), ("image_size", []),
        ("image_id", -1), ("has_image", "False"), ("image_count", "0"),
        ("image_caption", "A cat."), ("caption", "see figure.png for this"), ("category", "chart"),
        ("image_source", "COCO"), ("subfield", "geometry"), ("explanation", "The figure shows"), ("figure", None),
    ],
)  # fmt: skip
def test_keys_about_an_image_are_listed_as_unread(key: str, value: object) -> None:
    assert row_from_record({"question": "Q", "responses": ["r"], key: value}, 0, ROOT).unread == (key,)


STATED = (
    ("image_id", "17"), ("image_size", [3, 4]), ("num_images", 2), ("has_image", True), ("hasImage", "true"),
    ("image_width", 640), ("image_ids", [5]), ("img_id", 3), ("image_hash", "0a"), ("n_images", 1), ("photo_count", 1),
    ("image_id", 0), ("num_images", "1"),
)  # fmt: skip


@pytest.mark.parametrize(("key", "value"), STATED)
def test_a_row_that_says_it_has_an_image_and_has_none_is_refused(key: str, value: object) -> None:
    base = {"question": "Q", "responses": ["r"]}
    with pytest.raises(InputError, match=f"^{key} says that there is an image, and the row has none"):
        row_from_record({**base, key: value}, 0, ROOT)
    assert row_from_record({**base, "image": "a.png", key: value}, 0, ROOT).unread == (key,)
    assert row_from_record({**base, key: value}, 0, ROOT, images_beside=1).unread == (key,)


@pytest.mark.parametrize(
    ("more", "unread"),
    [
        ({"responses": ["r"], "response": "other"}, ("response",)),
        ({"responses": ["r"], "chosen": "good", "rejected": "bad"}, ("chosen", "rejected")),
        ({"responses": ["r"], "steps_with_score": [{"step": "s", "score": 1}]}, ("steps_with_score",)),
        ({"response": "r", "chosen": "good"}, ("chosen",)),
        ({"response": "r", "conversations": [{"from": "human", "value": "x"}]}, ("conversations",)),
        ({"responses": ["r"], "response": "", "chosen": None, "rejected": float("nan"), "conversations": []}, ()),
        ({"steps_with_score": [{"step": "s", "score": 1}], "response": "s"}, ()),
        ({"chosen": "a", "rejected": "b", "response": "c"}, ("response",)),
    ],
)
def test_responses_under_a_second_key_are_named(more: dict[str, object], unread: tuple[str, ...]) -> None:
    assert row_from_record({"question": "Q", **more}, 0, ROOT).unread == unread


@pytest.mark.parametrize("key", ["aggregate", "step_separator", "drop_empty_steps", "stepSeparator", "Aggregate"])
def test_options_of_a_run_are_refused_in_a_row(key: str) -> None:
    with pytest.raises(InputError, match=f"^{key} is not read from a row: give it for all rows"):
        row_from_record({"question": "Q", "responses": ["r"], key: "min"}, 0, ROOT)
    assert row_from_record({"question": "Q", "responses": ["r"], key: None}, 0, ROOT)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "image_url", "image_url": "a.png"},
        {"type": "image", "image": "a.png"}, {"type": "input_image", "image_url": "a.png"}, {"file_name": "a.png"},
        {"type": "image", "source": {"type": "url", "url": "a.png"}}, {"path": "a.png", "bytes": None},
    ],
)  # fmt: skip
def test_images_in_objects_of_chat_messages(value: object) -> None:
    assert row_from_record({"question": "Q", "responses": ["r"], "image": value}, 0, ROOT).images == (ROOT / "a.png",)


@pytest.mark.parametrize("value", [{"type": "image_url"}, {"kind": 1}, {"image_url": {"detail": "high"}}])
def test_an_object_without_an_image_names_its_keys(value: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"must have bytes, path or url, got one with the keys (type|kind|detail)"):
        row_from_record({"question": "Q", "responses": ["r"], "image": value}, 0, ROOT)


def test_beside_an_image_only_another_image_itself_is_refused() -> None:
    """A path may be anything; bytes of an image are one that would be dropped."""
    base = {"question": "Q", "responses": ["r"], "image": "a.png"}
    assert row_from_record({**base, "original_file": "b.png"}, 0, ROOT).unread == ("original_file",)
    with pytest.raises(InputError, match="second looks like an image"):
        row_from_record({**base, "second": {"bytes": png()}}, 0, ROOT)


def test_a_bad_response_is_left_to_scoring() -> None:
    """One bad response must not cost the row its other scores."""
    row = row_from_record({"question": "Q", "responses": ["good", 5, []]}, 0, ROOT)
    assert row.responses == ("good", 5, [])


@pytest.mark.parametrize(
    "more",
    [
        {"multi_modal_data": {"image": ["a.png"]}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Q"}]}
            ]
        },
        {"extra_info": {"images": ["a.png"], "index": 3}},
        {"extra": {"deeper": [{"image_url": {"url": "a.png"}}]}},
    ],
)
def test_images_inside_other_keys_are_refused_by_name(more: dict[str, object]) -> None:
    (key,) = more
    with pytest.raises(InputError, match=f"{key}.* looks like an image"):
        row_from_record({"question": "Q", "responses": ["r"], **more}, 0, ROOT)
    assert row_from_record({"question": "Q", "responses": ["r"], "image": "a.png", **more}, 0, ROOT).images
    harmless = {"extra_info": {"index": 3, "image": "", "images": []}, "messages": [{"content": "Q"}]}
    assert row_from_record({"question": "Q", "responses": ["r"], **harmless}, 0, ROOT).images == ()
