"""vprm-score gives the answers of `vprm score --input -` to odd rows too, but for what docs/embedding.md names."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cpp.conftest import ENVIRONMENT

ONE = {"question": "What is 1 + 1?", "responses": ["It is 2.", ["3", ""]]}
Q = '"question": "Q", "responses": ["r"]'  # the inside of a line

SCORED: tuple[dict[str, Any], ...] = (
    {
        "id": "a",
        "image": "0.ppm",
        "question": "How many?",
        "responses": ["One.\n\nTwo.", ["Three.", "Vier \u2028 🙂"], []],
    },
    {
        "image": "0.ppm",
        "question": "How many?",
        "responses": ["One.\n\nTwo.\n\nThree."],
        "max_steps": 2,
        "answer": 1e-7,
    },
    {
        "image": ["0.ppm", "1.ppm"],
        "question": "Which?",
        "responses": ["Left.", "Right."],
        "max_tiles": 2,
        "correct": [True, None],
    },
    {"id": 7, **ONE, "image": None, "answer": {"x": [1.5, 1e22, None], "y": {}}},
    {"id": 8.0, **ONE, "images": [], "max_steps": 1.0, "max_tiles": None},
    {**ONE, "image": {"path": "1.ppm", "bytes": None}},
    {**ONE, "image": {"type": "image_url", "image_url": {"url": "$ENCODED"}}},
    {**ONE, "image": "0.ppm", "images": ["0.ppm"]},
    {**ONE, "image": "$ENCODED"},
    {**ONE, "image": "$SHOUTED"},
    {**ONE, "images": [None, {"bytes": "$ENCODED"}, "", "0.ppm"]},
    *({**ONE, key: "1.ppm"} for key in ("img", "Picture", "image-path", "imageFile", "input_image", "IMAGE_URL")),
    {**ONE, "image_2": "1.ppm", "image_1": "0.ppm", "image_10": None, "image_3": "0.ppm"},
    {**ONE, "image": "0.ppm", "decoded_image": "$ENCODED"},
    {**ONE, "image": "0.ppm", "caption": "a.png", "extra": {"path": "b.png"}},
    {**ONE, "has_image": False, "num_images": 0, "image_id": "", "image_caption": "a red bar", "image_count": "none"},
    {**ONE, "extra": {"nested": [1, {"a": None}]}, "Note": "text", "file": "notes.txt", "n": 5, "empty": None},
    {**ONE, "response": "", "chosen": None, "conversations": [], "rejected": "not read", "steps_with_score": [1]},
    {**ONE, "responses": ["a", 5, None, ["b", 6], {"c": 1}, True, [["d"]]]},
    {**ONE, "correct": [True, None], "policy_model": "m", "data_source": "s", "answer": ""},
    {**ONE, "process_correctness": [[1], [0, -1]]},
    *({**ONE, "correct": odd} for odd in ([True], "yes", {"a": 1}, 2, [2, True], ["x", None], [{}, 1.5], [0.0, 1.0])),
    *(
        {**ONE, "process_correctness": wrong}
        for wrong in ([[1], [0, 1, 1]], 1, "text", [1, 1], [[2], None], [["a"], []], [[1], [True, 0]], [[10**30], []])
    ),
    {"question": "Q", "responses": ["a"], "correct": {"a": 1}},
    {"question": "Q", "responses": ["a"], "correct": 0, "answer": float("nan")},
    {"question": "Q", "responses": ["a"], "answer": [float("nan"), {"x": float("nan")}]},
    {"question": "Q", "responses": ["a"], "answer": float("inf"), "policy_model": "lost with it"},
    {"question": "Q", "responses": ["a"], "correct": [float("nan")], "answer": 10**40},
    {"question": "Q", "responses": [["a", "b"]], "process_correctness": [1, -1], "correct": [0]},
    {**ONE, "process_correctness": [None, [1, 0]], "note": 5, "subject": "arithmetic", "solved": False},
    {"question": "\ud83d\ude42 e\u0301", "responses": ['\u0000\u001f"\\/\u007f']},
    {"question": "Q", "responses": ["word " * 5000, "r"]},
    {"question": "Left <image> right <image>", "image": ["1.ppm", "1.ppm"], "responses": ["same"]},
    {"question": "See <image 1> and <image 5>", "image": "1.ppm", "responses": ["one"]},
    {"question": "See <|image_pad|>", "image": "1.ppm", "responses": ["one"]},
    {"question": "Q", "responses": ["r"], "answer": json.loads("[" * 63 + "]" * 63)},
    {"question": "Q", "responses": ["a\n\nb"], "max_steps": 10**30},
    *({"id": odd, **ONE} for odd in (2**63, -(2**63) - 1, 10**4000, 1e300, -0.0, float("nan"), "", "é\n", -5, 0)),
    *({**ONE, "image": name} for name in ("comments.ppm", "small.ppm", "deep.ppm", "extra.ppm", "tabs.ppm", "./0.ppm")),
    {**ONE, "image": [["0.ppm"][0]], "max_tiles": 256},
)
"""Rows that are scored, in part at least: answered with the same bytes."""

SCORED_LINES: tuple[str, ...] = (
    f"\ufeff{{{Q}}}",
    f"  \t{{{Q}}} \t\r",
    f'{{"id": 18446744073709551615, {Q}}}',
    f'{{"id": 1E2, {Q}}}',
    f'{{"id": -0, "answer": -0.0, {Q}}}',
    f'{{"id": NaN, "max_steps": NaN, "image": NaN, "img": [NaN], {Q}}}',
    f'{{"answer": [1.0e-5, 1e16, 123456789.0, 5E-324, 1e-400], {Q}}}',
    f'{{"answer": "\\u00e9\\ud83d\\ude42\\/\\b\\f", "\\u0069d": 4, {Q}}}',
)

REFUSED: tuple[Any, ...] = (
    {"id": 8, "image": "missing.ppm", "question": "Q", "responses": ["r"], "answer": "5"},
    {"question": " ", "responses": ["r"], "answer": "5", "correct": "x"},
    {"question": "Q", "responses": []},
    {"question": "Q", "responses": "r"},
    {"question": "Q", "responses": {"a": 1}},
    {"question": 5, "responses": ["r"]},
    {"question": None, "responses": ["r"]},
    {"responses": ["r"]},
    {},
    *({"id": odd, **ONE} for odd in (True, [1], {}, 1.5, float("inf"))),
    *({"id": 9, **ONE, "answer": 1, "max_steps": odd} for odd in (0, -1, "2", True, 1.5, [2], -(10**30), float("inf"))),
    *({"id": 9, **ONE, "answer": 1, "max_tiles": odd} for odd in (0, 257, "2", False, 10**30)),
    *({"id": 9, **ONE, key: 2} for key in ("maxSteps", "max-tile", "Max Tiles", "max_num", "maxDynamicPatch")),
    *(
        {"id": 9, **ONE, key: "x"}
        for key in ("aggregate", "step_separator", "drop_empty_steps", "system_message", "system", "use_thumbnail")
    ),
    {"id": 9, **ONE, "image": 5},
    {"id": 9, **ONE, "image": True},
    {"id": 9, **ONE, "image": [["0.ppm"]]},
    {"id": 9, **ONE, "image": {"a": "0.ppm"}},
    {"id": 9, **ONE, "image": {"path": {"path": {"path": {"path": "0.ppm"}}}}},
    {"id": 9, **ONE, "image": "https://example.org/a.ppm"},
    {"id": 9, **ONE, "image": "data:image/x-portable-pixmap;base64,????"},
    {"id": 9, **ONE, "image": "data:image/x-portable-pixmap;base64,é"},
    {"id": 9, **ONE, "image": "data:image/x-portable-pixmap,abcd"},
    {"id": 9, **ONE, "image": "data:;base64,", "answer": 1},
    *({"id": 9, **ONE, "image": name, "answer": 1} for name in ("cut.ppm", "cut16.ppm", "empty.ppm", "flat.ppm", ".")),
    *({"id": 9, **ONE, "image": name, "answer": 1} for name in ("huge.ppm", "zero.ppm", "long.ppm", "text.ppm")),
    {"id": 9, **ONE, "image": "a\0b", "answer": 1},
    {"id": 9, **ONE, "image": "x" * 5000, "answer": 1},
    {"id": 9, **ONE, "image": "0.ppm", "images": ["1.ppm"]},
    {"id": 9, **ONE, "image_1": "0.ppm", "image1": "0.ppm"},
    {"id": 9, **ONE, "decoded_image": "$ENCODED", "decodedImage": "$ENCODED", "image": "1.ppm"},
    {"id": 9, **ONE, "decoded_image": "$ENCODED", "decodedImage": "0.ppm"},
    *({"id": 9, **ONE, key: "0.png"} for key in ("screenshot", "figure_2", "main_image_x", "visual")),
    *({"id": 9, **ONE, "extra": odd} for odd in ("0.png", "a b.JPEG?x=1", {"path": "b.gif"}, {"image": "0.ppm"})),
    {"id": 9, **ONE, "extra": [[{"img": "0.ppm"}]]},
    {"id": 9, **ONE, "image": "0.ppm", "extra": "$ENCODED"},
    *({"id": 9, **ONE, key: 1} for key in ("has_image", "image_id", "num_images", "image_width")),
    {"id": 9, **ONE, "has_image": "yes"},
    {"id": 9, "question": "<image>", "responses": ["r"], "answer": 1},
    {"id": 9, "question": "<image> <image>", "image": "0.ppm", "responses": ["r"]},
    {"id": 9, "question": "See <image 1>", "responses": ["r"]},
    {"id": 9, "question": "word " * 5000, "responses": ["r"], "answer": 1},
    {"question": "\ud83d", "responses": ["r"]},
    {"id": 5, **ONE, "answer": {"\ude42": 1}},
    [ONE],
    "row",
    5,
    None,
    {"id": 9, **ONE, "answer": json.loads("[" * 64 + "]" * 64)},
)
"""Rows that both refuse: messages name what a program can read, the same ids, codes and labels."""

REFUSED_LINES: tuple[str, ...] = (
    "{",
    "{}}",
    f'{{"id": 1, "id": 2, {Q}}}',
    f'{{"a": {{"b": 1, "b": 1}}, {Q}}}',
    f'{{"question": "twice", {Q}}}',
    f"{{{Q},}}",
    f"{{'id': 1, {Q}}}",
    f'{{"id": 01, {Q}}}',
    f'{{"id": {"1" * 4301}, {Q}}}',
    f'{{"id": 1., {Q}}}',
    f'{{"id": +1, {Q}}}',
    f'{{"id": .5, {Q}}}',
    f'{{"id": Infinity, {Q}}}',
    f'{{"id": nan, {Q}}}',
    '{"question": "a\tb", "responses": ["r"]}',
    '{"question": "\\x41", "responses": ["r"]}',
    '{"question": "\\u00e", "responses": ["r"]}',
    '{"question": "\\ud83dA", "responses": ["r"]}',
    '{"question": "\\ude42\\ud83d", "responses": ["r"]}',
    '{"question": "open',
    f"{{{Q}}} {{{Q}}}",
    f"{{{Q}}} // comment",
    f"\u00a0{{{Q}}}",
    "[" * 100_000,
    f'{{"id": 3, "a": {"[" * 64}{"]" * 64}, {Q}}}',
    "NaN",
    "\ufeff",
    "\0",
)

REFUSED_HERE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"question": "Q", "response": "r"}, "use vprm score"),
    ({"question": "Q", "chosen": "a", "rejected": "b"}, "use vprm score"),
    ({"question": "Q", "steps_with_score": [{"step": "a", "score": 1}]}, "use vprm score"),
    (
        {"conversations": [{"from": "human", "value": "### Question:\nQ\n\n### Solution Process:\ns"}]},
        "use vprm score",
    ),
    *(({**ONE, "image": name}, "no binary PPM image") for name in ("grey.ppm", "plain.ppm", "0.png")),
    ({**ONE, "k" * 201: 5}, "too long"),
)
"""Rows that the command scores and vprm-score refuses by name, and what it says."""


def _images(folder: Path) -> str:
    """Image files of many forms in a folder; one of them as a data URL."""
    for number, (width, height) in enumerate(((500, 300), (90, 60))):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.ppm")
    Image.fromarray(noise).save(folder / "0.png")
    content = (folder / "1.ppm").read_bytes()
    pixels = bytes(range(255)) * 3
    deep = np.arange(2 * 45 * 3, dtype=">u2").tobytes()
    files = {
        "cut.ppm": content[:-1],
        "extra.ppm": content + b"more",
        "comments.ppm": b"P6 # one\n9#two\r0 #three\n1\n25#four\n5\n" + pixels[: 90 * 3],
        "tabs.ppm": b"P6\t\n 90\v1\f255\r" + pixels[: 90 * 3],
        "small.ppm": b"P6\n90 1\n100\n" + pixels[: 90 * 3],
        "deep.ppm": b"P6\n45 2\n1000\n" + deep,
        "cut16.ppm": b"P6\n45 2\n65535\n" + deep[:-1],
        "empty.ppm": b"",
        "flat.ppm": b"P6\n0 5\n255\n",
        "huge.ppm": b"P6\n262145 1\n255\n" + pixels,
        "zero.ppm": b"P6\n90 1\n0\n" + pixels,
        "long.ppm": b"P6\n00000000090 1\n255\n" + pixels,
        "text.ppm": b"P6\nninety 1\n255\n" + pixels,
        "grey.ppm": b"P5\n90 1\n255\n" + pixels[:90],
        "plain.ppm": b"P3\n1 1\n255\n1 2 3\n",
    }
    for name, file in files.items():
        (folder / name).write_bytes(file)
    return base64.b64encode(content).decode()


def _answers(command: list[str], text: bytes) -> tuple[list[bytes], list[str], int]:
    """The lines of stdout, those of stderr without a suggestion of the command's, and the exit code."""
    done = subprocess.run(command, input=text, env=ENVIRONMENT, capture_output=True, check=False)
    return done.stdout.split(b"\n")[:-1], done.stderr.decode().splitlines(), done.returncode


def _both(build: Path, bundle: Path, folder: Path, text: bytes) -> tuple[Any, Any]:
    arguments = [str(bundle), "--input", "-", "--image-root", str(folder), "--threads", "1"]
    mine = _answers([str(build / "vprm-score"), *arguments], text)
    command = [sys.executable, "-m", "vprm_runtime.cli.main", "score", *arguments, "--device", "cpu"]
    return mine, _answers(command, text)


def test_vprm_score_answers_as_the_command_does(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    url = f"data:image/x-portable-pixmap;base64,{_images(tmp_path)}"
    rows = [json.dumps(row) for row in SCORED]
    rows += [*SCORED_LINES, *map(json.dumps, REFUSED), *REFUSED_LINES]
    text = "\n \t\n".join(rows).replace("$ENCODED", url).replace("$SHOUTED", f"DATA:;BASE64,{url.partition(',')[2]}")
    given = text.encode() + b'\n{"question": "\xff"}\n{"question": "\xed\xa0\xbd"}\n\xc3'
    (mine, my_notes, my_code), (theirs, their_notes, their_code) = _both(build, demo_bundle, tmp_path, given)
    scored = len(SCORED) + len(SCORED_LINES)
    for row, found, expected in zip(rows[:scored], mine, theirs, strict=False):
        assert b'"results"' in expected, (row[:300], expected[:300])
        assert found == expected, row[:300]
    assert len(mine) == len(theirs) == len(rows) + 3
    for place in range(scored, len(theirs)):
        found, expected = json.loads(mine[place]), json.loads(theirs[place])
        assert found.pop("error") and expected.pop("error"), rows[place][:300]
        assert found == expected and list(found) == list(expected), rows[place : place + 1]
    assert my_code == their_code == 0
    assert my_notes[0].startswith("ready: ONNX Runtime")
    assert my_notes[1:] == [re.sub(r" \(did you mean [^)]*\)", "", note) for note in their_notes[1:]]
    assert len(my_notes) > 10


def test_what_vprm_score_refuses(build: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """What only the Python command reads, and wrong arguments; exit codes are the command's."""
    _images(tmp_path)
    text = "".join(f"{json.dumps(row)}\n" for row, _ in REFUSED_HERE).encode()
    (mine, _, code), (theirs, _, _) = _both(build, demo_bundle, tmp_path, text)
    assert code == 3
    for found, expected, (row, message) in zip(mine, theirs, REFUSED_HERE, strict=True):
        assert message in json.loads(found)["error"], row
        assert "results" in json.loads(expected), row
    for wrong in (
        [], [str(demo_bundle)], [str(demo_bundle), "--input", "rows.jsonl"], [str(tmp_path), "--input", "-"],
        *([str(demo_bundle), "--input", "-", *more] for more in (
            ["--max-tiles", "0"], ["--max-tiles", "257"], ["--max-steps", "x"], ["--threads", "-1"],
            ["--image-root", "/no/such/folder"], ["--aggregate", "min"],
        )),
    ):  # fmt: skip
        refused = subprocess.run([build / "vprm-score", *wrong], env=ENVIRONMENT, capture_output=True, check=False)
        assert (refused.returncode, refused.stdout) == (2, b"")


@pytest.mark.parametrize("first", ["a\nb", "a\\n\\nb", '["a", "b"]', "a"])
def test_responses_of_one_step_are_noted_as_by_the_command(
    build: Path, demo_bundle: Path, tmp_path: Path, first: str
) -> None:
    text = (json.dumps({"question": "Q", "responses": [first]}) + "\n").encode()
    (mine, my_notes, _), (theirs, their_notes, _) = _both(build, demo_bundle, tmp_path, text * 3)
    assert mine == theirs
    assert len(my_notes) == len(their_notes)
    for found, expected in zip(my_notes[1:], their_notes[1:], strict=True):
        assert found[:60] == expected[:60]
