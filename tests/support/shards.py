"""Rows to shard, and processes in which some of them are fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

Rows = list[dict[str, Any]]

SITE = '''
"""Rows that end their process, and a list of the rows that are begun: loaded by every worker at its start."""
import os, signal, time
if os.environ.get("VPRM_TEST_BEGUN"):
    from vprm_runtime.datasets import row_scorer
    from vprm_runtime.datasets.attempts import Attempts
    def begin(self, row, begin=Attempts.begin):
        is_begun = begin(self, row)
        if is_begun:
            with open(os.environ["VPRM_TEST_BEGUN"], "a") as file:
                file.write(f"{row}\\n")
        return is_begun
    Attempts.begin = begin
    def document(self, row, tiles, document=row_scorer.RowScorer.document):
        time.sleep(float(os.environ.get("VPRM_TEST_ROW_S", 0)))
        if "POISON" in str(getattr(row, "responses", "")):
            os.kill(os.getpid(), signal.SIGKILL)
        return document(self, row, tiles)
    row_scorer.RowScorer.document = document
    def tiles(self, row, tiles=row_scorer.RowScorer.tiles):
        if "BOMB" in row.question:
            os.kill(os.getpid(), signal.SIGKILL)
        return tiles(self, row)
    row_scorer.RowScorer.tiles = tiles
'''


def sample_rows(root: Path, count: int) -> Rows:
    """Rows about images that neighbours share, three each."""
    for number in range((count + 2) // 3):
        if not (root / f"{number}.png").exists():
            Image.effect_noise((40 + number, 30), 90).convert("RGB").save(root / f"{number}.png")
    return [
        {
            "id": f"row-{number}",
            "image": f"{number // 3}.png",
            "question": f"What is {number // 3}?",
            "responses": [f"First {number}.\n\nThen {k}." for k in range(1 + number % 2)],
        }
        for number in range(count)
    ]


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
