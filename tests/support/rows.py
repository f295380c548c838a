"""Files of rows for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

Rows = list[dict[str, Any]]


def write_rows(path: Path, rows: Rows) -> Path:
    """A jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_rows(path: Path) -> Rows:
    """All rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def forty_rows(root: Path) -> Path:
    """40 rows about 8 images, in mixed order, and the images, in a folder."""
    for number in range(8):
        Image.effect_noise((80 + 10 * number, 60), 90).convert("RGB").save(root / f"{number}.png")
    rows: Rows = [
        {
            "id": f"row-{number}",
            "image": f"{number % 8}.png",
            "question": f"What is {number % 8}?",
            "responses": [f"First {number}.\n\nThen {k}." for k in range(1 + number % 3)],
            "answer": str(number),
        }
        for number in range(40)
    ]
    return write_rows(root / "rows.jsonl", rows)


def png() -> bytes:
    """An image file's bytes."""
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(stream, "PNG")
    return stream.getvalue()
