"""The way from `StepScorer.score` to the engine is the one that the architecture page draws."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

from vprm_runtime import StepScorer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"


def stacks_to(function: str, call: Callable[[], object]) -> list[str]:
    """The distinct stacks of this package at calls of `function`, as `Class.method (file)` lines."""
    found: dict[str, None] = {}

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name == function:
            lines = []
            at: FrameType | None = frame
            while at is not None:
                file = at.f_code.co_filename
                if "vprm_runtime" in file and "<" not in at.f_code.co_qualname.split(".")[-1]:
                    lines.append(f"{at.f_code.co_qualname} ({Path(file).relative_to(ROOT / 'runtime/vprm_runtime')})")
                at = at.f_back
            found["\n".join(reversed(lines))] = None

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return list(found)


def test_the_documented_call_stacks_are_the_real_ones(
    random_scorer: Callable[[str], StepScorer], make_image: Callable[..., Image.Image]
) -> None:
    scorer = random_scorer("internlm2")
    found = stacks_to("run", lambda: scorer.score(make_image(), "How many?", ["One.", "Two."]))
    print("\n\n".join(found))
    documented = re.findall(r"```stack\n(.*?)\n```", PAGE.read_text("utf-8"), re.S)
    assert found == documented
