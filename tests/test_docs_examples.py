"""Code in the documents runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from vprm_runtime import StepScorer

DOCS = Path(__file__).parent.parent / "docs"


def test_the_beam_search_example(
    random_scorer: Callable[[str], StepScorer], picture: Callable[..., Image.Image]
) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", (DOCS / "sessions.md").read_text("utf-8"), re.S)
               if "def beam_search" in block]  # fmt: skip
    names: dict[str, Any] = {}
    exec(code, names)
    scorer, asked = random_scorer("internlm2"), []

    def propose(steps: list[str]) -> list[str | None]:
        asked.append(steps)
        ends: list[str | None] = [None] if len(steps) == 3 else []
        return [f"Take {len(steps)} and {n}." for n in range(3)] + ends

    steps, score = names["beam_search"](scorer, picture(), "How many?", propose, beams=2, max_steps=4)
    whole = scorer.score(picture(), "How many?", [steps]).candidates[0]
    assert whole.score is not None
    assert abs(whole.score - score) < 1e-5
    assert 3 <= len(steps) <= 4
    assert max(len(past) for past in asked) == 3
