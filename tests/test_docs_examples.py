"""Code in the documents runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vprm_runtime import StepScorer
from vprm_runtime.engines.base import KVCache

DOCS = Path(__file__).parent.parent / "docs"


def test_the_beam_search_example(
    random_scorer: Callable[[str], StepScorer], make_image: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", (DOCS / "sessions.md").read_text("utf-8"), re.S)
               if "def beam_search" in block]  # fmt: skip
    names: dict[str, Any] = {}
    exec(code, names)
    scorer, asked = random_scorer("internlm2"), []
    caches, moves = [], []
    new_cache = scorer.engine.new_cache

    def watched_cache(capacity_tokens: int) -> KVCache:
        cache = new_cache(capacity_tokens)
        keep = cache.keep
        cache.keep = lambda rows: (moves.append(cache.length_tokens - len(rows)), keep(rows))  # type: ignore[method-assign]
        caches.append(cache)
        return cache

    monkeypatch.setattr(scorer.engine, "new_cache", watched_cache)

    def propose(steps: list[str]) -> list[str | None]:
        asked.append(steps)
        ends: list[str | None] = [None] if len(steps) == 3 else []
        return [f"Take {len(steps)} and {n}, which is {'far ' * 4}more than enough." for n in range(3)] + ends

    steps, score = names["beam_search"](scorer, make_image(), "How many?", propose, beams=2, max_steps=6)
    assert len(caches) == 1
    assert sum(moves) > 0  # rows of beams that were dropped
    whole = scorer.score(make_image(), "How many?", [steps]).candidates[0]
    assert whole.score is not None
    assert abs(whole.score - score) < 1e-5
    assert 3 <= len(steps) <= 6
    assert max(len(past) for past in asked) == 5

    for nothing in ([None], []):
        with pytest.raises(ValueError, match="nothing was proposed"):
            names["beam_search"](scorer, None, "How many?", lambda steps, end=nothing: end)
