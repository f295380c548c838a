"""Missing image files are named before the work, not during it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from vprm_runtime import InputError
from vprm_runtime.datasets import open_rows
from vprm_runtime.datasets.missing_images import check_image_paths


def rows(tmp_path: Path, images: list[object]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": "Q", "responses": ["r"], "image": i}) + "\n" for i in images))
    return path


def test_rows_without_their_images_are_counted_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "there.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "vprm"):
        check_image_paths(open_rows(rows(tmp_path, ["there.png", None, "none.png", ["there.png", "gone.png"]])))
    assert "2 of 4 rows will be left out" in caplog.text
    assert "row 2: no image file at" in caplog.text


def test_nothing_to_say_of_rows_that_are_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "there.png").write_bytes(b"")
    check_image_paths(open_rows(rows(tmp_path, ["there.png", None])))
    check_image_paths([])
    assert not caplog.text


def test_a_wrong_image_root_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not one of 2 rows has its images \(row 0: .*--image-root"):
        check_image_paths(open_rows(rows(tmp_path, ["a.png", "b.png"])))
