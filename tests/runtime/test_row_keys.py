"""The table of row keys in the documentation is what readers know."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from vprm_runtime import InputError
from vprm_runtime.datasets.row import row_from_record
from vprm_runtime.datasets.row_images import is_image_key
from vprm_runtime.datasets.row_keys import IMAGES, KNOWN_KEYS, markdown_table

WIRE = Path(__file__).parents[2] / "docs" / "wire.md"
_KEYS = re.compile(r"(<!-- keys: [^\n]*-->\n).*?(<!-- end of keys -->)", re.DOTALL)


def test_the_documented_keys_are_current() -> None:
    """Run the tests with UPDATE_DOCS=1 to write it anew."""
    text = WIRE.read_text("utf-8")
    current = _KEYS.sub(lambda found: f"{found[1]}\n{markdown_table()}\n\n{found[2]}", text)
    if os.environ.get("UPDATE_DOCS"):
        WIRE.write_text(current, "utf-8")
    assert WIRE.read_text("utf-8") == current


def test_all_documented_image_keys_are_read() -> None:
    words = {word for keys in IMAGES for word in re.findall(r"[a-z]+(?:_[a-z]+)*_?\d*", keys)} - {"and", "plurals"}
    assert {"image", "image_1", "decoded_image", "image_base64"} <= words
    assert all(is_image_key(word) for word in words)
    assert not any(is_image_key(key) for key in KNOWN_KEYS)


@pytest.mark.parametrize("value", ["images/a.png", "images\\\\a.png", "images/sub/a.png"])
def test_a_root_that_doubles_a_folder_is_found(tmp_path: Path, value: str) -> None:
    """VisualProcessBench's paths begin with images/: its root is the folder above."""
    plain = value.replace("\\\\", "/")
    (tmp_path / plain).parent.mkdir(parents=True)
    (tmp_path / plain).write_bytes(b"")
    record = {"question": "Q", "responses": ["r"], "image": plain}
    with pytest.raises(InputError, match=f"begins with images/ itself.*--image-root {tmp_path}$"):
        row_from_record(record, 0, tmp_path / "images")
    assert row_from_record(record, 0, tmp_path).images == (tmp_path / plain,)
    gone = {**record, "image": "images/gone.png"}
    assert row_from_record(gone, 0, tmp_path / "images").images == (tmp_path / "images/images/gone.png",)
