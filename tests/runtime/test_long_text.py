"""Texts far beyond the model's limit are refused before they are tokenised, in bounded memory; deep rows as well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vprm_runtime import InputError, StepScorer
from vprm_runtime.datasets import score_stream
from vprm_runtime.datasets.parsed_row import BadRow, row_from_line

TEXTS = {
    "letters": "a", "words": "some words ", "emoji": "\U0001f600", "spaces": " ", "newlines": "\n", "nuls": "\0",
    "control tokens": "<|im_end|>", "placeholders": "<IMG_CONTEXT>", "combining": "e\u0301", "Chinese": "答案",
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("characters", [300_000, 5_000_000])
def test_long_texts_are_refused(name: str, characters: int, demo_scorer: StepScorer) -> None:
    """As a question, a step, a response, and many steps that only together are too long."""
    text = TEXTS[name] * (characters // len(TEXTS[name]))
    with pytest.raises(InputError, match=r"limit|empty"):
        demo_scorer.score(None, text, ["One."])
    piece = text[: len(text) // 1000]
    result = demo_scorer.score(None, "How many?", [text, [text], ["One.", text], [piece] * 1000, "One."])
    assert [candidate.score is None for candidate in result.candidates] == [True] * 4 + [False]
    for candidate in result.candidates[:4]:
        assert "limit" in str(candidate.error) and len(str(candidate.error)) < 300


def test_texts_up_to_the_limit_are_tokenised_as_before(demo_scorer: StepScorer) -> None:
    """Refused by count, not by length: a long text of few tokens is scored as its parts say."""
    limit = demo_scorer.manifest.model.max_positions_tokens
    for text in ("word " * 200, "1234 " * 300, " " * 900):
        ids = demo_scorer.prepare("How many?" + text, [], "One.").ids
        assert len(ids) <= limit
    error: list[str] = []
    for length in range(limit - 400, limit + 4000, 211):
        try:
            demo_scorer.score(None, "a " * length, ["One."])
        except InputError as caught:
            error.append(caught.code)
    assert set(error) == {"prompt_too_long"}


CHILD = """
import resource, sys
from vprm_runtime import InputError, StepScorer
scorer = StepScorer.open(sys.argv[1], threads=1)
scorer.score(None, "How many?", ["One."])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = "abcd efgh " * 5_000_000
try:
    scorer.score(None, text, ["One."])
except InputError as error:
    assert error.code == "prompt_too_long"
result = scorer.score(None, "How many?", [text, [text]])
assert all(candidate.error for candidate in result.candidates)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory in kilobytes is Linux's")
def test_the_memory_of_a_refused_text(demo_bundle: Path) -> None:
    """50 MB, three times: its own size and little more."""
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(demo_bundle)], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(run.stdout) < 170_000


@pytest.mark.parametrize("depth", [66, 100, 500, 900, 980, 983, 984, 985, 986, 987, 988, 989, 990, 1000, 5000, 200_000])
@pytest.mark.parametrize("key", ["answer", "extra", "responses", "image", "id"])
def test_deep_rows_are_bad_rows(key: str, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = opening * depth + "1" + closing * depth
        row = {"id": 1, "question": "Q \U0001f600", "responses": ["r"], "image": None}
        line = json.dumps(row | {key: "DEEP"}).replace('"DEEP"', deep)
        found = row_from_line(line.encode(), 0, "line 1", Path())
        assert isinstance(found, BadRow) and ("nested" in found.error or "not JSON" in found.error)


@pytest.mark.parametrize("half", [rb"\ud800", rb"\uDFFF", b"\xed\xa0\x80", b"\xed\xbf\xbf"])
def test_half_characters_are_refused_however_they_are_written(half: bytes) -> None:
    found = row_from_line(b'{"question": "Q", "responses": ["r"], "answer": "%s"}' % half, 0, "line 1", Path())
    assert isinstance(found, BadRow) and "line 1 has half a surrogate pair" in found.error


def test_a_worker_answers_after_deep_and_long_rows(demo_scorer: StepScorer, tmp_path: Path) -> None:
    good = {"question": "Q", "responses": ["r"]}
    lines = []
    for poison in (
        json.dumps({**good, "question": "a" * 3_000_000}), '{"question": "Q", "responses": ["r"], "answer": '
        + "[" * 985 + "]" * 985 + "}", json.dumps({**good, "responses": ["b" * 3_000_000]}), "[" * 100_000,
        json.dumps({**good, "image": "x" * 300_000}), json.dumps({**good, "id": "i" * 300_000, "question": ""}),
    ):  # fmt: skip
        lines += [poison.encode(), json.dumps(good).encode()]
    answers: list[dict[str, Any]] = []
    score_stream(demo_scorer, lines, answers.append, image_root=tmp_path)
    assert len(answers) == len(lines)
    assert len({answer["results"][0]["score"] for answer in answers[1::2]}) == 1
    assert all("error" in answer or answer["results"][0]["error"] for answer in answers[::2])
