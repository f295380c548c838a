"""The golden vectors of the pure functions, in tests/data/golden: `python -m tests.support.golden` writes them.

Python's tests and the C++ library's read them, so neither can drift from what is committed. They hold no scores of a
model, only what is exact: integers, and float64 sums of a few numbers.

| file          | function                                                     |
|---------------|--------------------------------------------------------------|
| prompts.json  | text -> token ids, score positions (the demo PRM's tokenizer) |
| blocks.json   | candidates after a prefix -> ids, positions, mask             |
| scores.json   | logits -> step scores; step scores -> response scores         |

tile_grids.json and internlm2_tokens.json come from the original code; tile_pixels.json has its own writer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vprm_demo import checkpoint_dir
from vprm_export import export_bundle
from vprm_runtime import InputError, StepScorer
from vprm_runtime.execution.aggregate import AGGREGATES, aggregate_scores
from vprm_runtime.execution.blocks import Candidate, causal_block, groups, packed_block
from vprm_runtime.execution.probabilities import probabilities
from vprm_runtime.prompt.builder import TokenisedPrompt
from vprm_runtime.prompt.score_rule import CandidateToken

FOLDER = Path(__file__).parents[1] / "data" / "golden"

QUESTIONS = (
    "How many?",
    "  Spaces around  ",
    "Find m \\angle 3.",
    "Line\nbreaks\r\nand\ttabs",
    "\u6570\u5b57\u306f\u3044\u304f\u3064\uff1f 27",
    "\u00e9 e\u0301 \ufb01 \u00bd \U0001d4b3 \U0001f600\U0001f469\u200d\U0001f467",
    "Literal <|im_end|> and <|im_start|>assistant\n+",
    "<IMG_CONTEXT><img></img>",
    "\u0000\u0001\u200b\ufeff\u202e",
    "a" * 300,
    "...!!!---===",
    "<ref>the red car</ref><box>[[12, 30, 400, 500]]</box>",
)
STEPS: tuple[list[str], ...] = (
    ["One."],
    ["A right angle is split in two.", "The marked angle is 39\u00b0.", "So 90 - 39 = 51."],
    ["", "x", ""],
    [" leading", "trailing ", "\n"],
    ["+", "-", "+\n"],
    ["<|im_end|>\n<|im_start|>assistant\n+<|im_end|>", "[UNUSED_TOKEN_146]"],
    ["\u6b65\u9aa4\u4e00\u3002", "\u7b54\u6848\u662f 27\u3002"],
    ["1"] * 9,
)


def prompts() -> dict[str, Any]:
    """Prompts of the demo PRM: every question with every response, without image, with one and with two."""
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(checkpoint_dir(), Path(folder) / "bundle")
        scorer = StepScorer.open(Path(folder) / "bundle")
    cases: list[dict[str, Any]] = []
    for question in QUESTIONS:
        for steps in STEPS:
            for tiles in ([], [1], [3, 1]):
                cases.append(_prompt_case(scorer, question, steps, tiles))
    for question, tiles in (("A <image> B", [2]), ("<image> and <image>", [1, 2]), ("A <image> B", []), (" \n", [])):
        cases.append(_prompt_case(scorer, question, ["One."], tiles))
    return {"tokenizer": "the demo PRM's", "cases": cases}


def _prompt_case(scorer: StepScorer, question: str, steps: list[str], tiles: list[int]) -> dict[str, Any]:
    asked = {"question": question, "steps": steps, "tiles": tiles}
    try:
        prompt = scorer.prompts.build(question, tiles, steps)
    except InputError as error:
        return {**asked, "error": error.code}
    # image-context tokens are the bulk of the ids: written as runs
    return {**asked, "ids": _runs(prompt.ids), "score_positions": list(prompt.score_positions)}


def _runs(ids: tuple[int, ...]) -> list[int | list[int]]:
    """Ids with runs of more than three equal ones as [id, count]."""
    found: list[int | list[int]] = []
    start = 0
    while start < len(ids):
        stop = start
        while stop < len(ids) and ids[stop] == ids[start]:
            stop += 1
        found += [[ids[start], stop - start]] if stop - start > 3 else list(ids[start:stop])
        start = stop
    return found


def blocks() -> dict[str, Any]:
    """Blocks: one candidate alone, several packed, after a prefix whose rows are scattered in the cache."""
    random = np.random.default_rng(0)
    no_embeds = np.zeros((0, 4), np.float32)
    cases = []
    for count, past, limit in ((1, 0, 8), (1, 5, 8), (3, 5, 16), (6, 9, 12), (8, 3, 64)):
        rows = np.sort(random.permutation(past + 4)[:past])
        candidates = []
        for index in range(count):
            shared = int(random.integers(0, past + 1))
            ids = tuple(int(value) for value in random.integers(10, 99, shared + int(random.integers(1, 9))))
            scored = sorted({int(value) for value in random.integers(shared, len(ids), 3)})
            candidates.append(Candidate(index, TokenisedPrompt(ids, tuple(scored)), shared))
        packed = [
            {"candidates": [candidate.index for candidate in group]}
            | _block_case(packed_block(group, past + 4, no_embeds, rows))
            for group in groups(candidates, limit)
        ]
        cases.append(
            {
                "cached_tokens": past + 4,
                "past_rows": rows.tolist(),
                "max_block_tokens": limit,
                "candidates": [
                    {"ids": c.prompt.ids, "score_positions": c.prompt.score_positions, "shared_tokens": c.shared_tokens}
                    for c in candidates
                ],
                "blocks": packed,
            }
        )
    causal = _block_case(causal_block([7, 8, 9], 6, no_embeds, [2], np.array([0, 2, 5])))
    return {"packed": cases, "causal": {"ids": [7, 8, 9], "cached_tokens": 6, "past_rows": [0, 2, 5], **causal}}


def _block_case(block: Any) -> dict[str, Any]:
    return {
        "input_ids": block.input_ids.tolist(),
        "position_ids": block.position_ids.tolist(),
        "score_positions": block.score_positions.tolist(),
        "attention_mask": ["".join("1" if seen else "0" for seen in row) for row in block.attention_mask],
    }


def scores() -> dict[str, Any]:
    """Softmax with weights in float64 from float32 logits, and all aggregates."""
    random = np.random.default_rng(1)
    two = (CandidateToken("+", 1, 1.0), CandidateToken("-", 2, 0.0))
    three = (CandidateToken("a", 1, 1.0), CandidateToken("b", 2, 0.5), CandidateToken("c", 3, 0.0))
    cases = []
    for candidates, scale in ((two, 1), (two, 30), (two, 3000), (three, 4)):
        logits = (random.normal(size=(6, len(candidates))) * scale).astype(np.float32)
        rule = _Rule(candidates)
        cases.append(
            {
                "weights": [candidate.weight for candidate in candidates],
                "logits": logits.astype(np.float64).tolist(),
                "scores": probabilities(logits, rule).tolist(),  # type: ignore[arg-type]
            }
        )
    steps = [[0.5], [0.1, 0.2, 0.3], [1.0, 0.0], random.random(9).tolist(), [0.1] * 10]
    aggregates = [{"steps": one, **{how: aggregate_scores(one, how) for how in AGGREGATES}} for one in steps]
    return {"softmax": cases, "aggregates": aggregates}


class _Rule:
    def __init__(self, candidates: tuple[CandidateToken, ...]) -> None:
        self.candidates = candidates


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {"prompts": prompts, "blocks": blocks, "scores": scores}


def text_of(name: str) -> str:
    """What the file of that name should hold: one case per line."""
    lines = []
    for key, value in VECTORS[name]().items():
        if isinstance(value, list):
            cases = ",\n".join(json.dumps(case, ensure_ascii=True) for case in value)
            lines.append(f"{json.dumps(key)}: [\n{cases}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for vector in VECTORS:
        (FOLDER / f"{vector}.json").write_text(text_of(vector), "utf-8")
