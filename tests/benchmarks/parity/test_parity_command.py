"""`vprm parity` as users run it: exit codes, JSON alone on stdout, a page that needs nothing else, own rows."""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import pytest

from vprm_benchmarks.parity import command
from vprm_benchmarks.parity.cases import draw_image
from vprm_runtime import CheckpointError, InputError


def _run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    args = parser.parse_args(["parity", "--threads", "1", *map(str, arguments)])
    return int(args.run(args))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_json_is_one_document_with_every_stage(
    tiny_bundle: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--limit", "2", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
    assert document["cases"] == 2
    names = [stage["stage"] for stage in document["stages"]]
    assert names[0] == "tile_grid"
    assert names[-1] == "ranking"
    scores = document["stages"][names.index("step_scores")]
    assert 0 < scores["mean"] <= scores["p99"] <= scores["max"] == scores["needed"] < scores["limit"]


def test_another_checkpoint_fails_with_exit_code_1(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint

    other = write_random_checkpoint(tmp_path / "other", replace(tiny_spec(), seed=1))
    page = tmp_path / "parity.html"
    assert _run(tiny_bundle, "--checkpoint", other, "--limit", "2", "--html", page) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "out of tolerance" in out
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "<td>failed</td>" in text
    assert "<script" not in text
    assert "src=" not in text


def test_rows_of_ones_own(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    draw_image(80, 50, 3).save(tmp_path / "images" / "a.png")
    rows = [
        {"id": 7, "image": "a.png", "question": "What is it?", "responses": ["A shape.", ["It is", "blue."]]},
        {"question": "2 + 2?", "responses": ["4"]},
        {"image": ["a.png"], "question": "Which?", "response": {"steps": ["This.", "That."]}},
        {"image": _base64(tmp_path / "images" / "a.png"), "question": "Why?", "chosen": "So.", "rejected": ""},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    arguments = (tiny_bundle, "--checkpoint", tiny_checkpoint, "--data", file, "--image-root", tmp_path / "images")
    assert _run(*arguments) == 0


def test_unusable_input_says_what_to_do(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --checkpoint"):
        _run(tiny_bundle)
    with pytest.raises(CheckpointError, match="reference cannot load"):
        _run(tiny_bundle, "--checkpoint", tmp_path)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "no responses"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--data", bad)
    for row, message in (
        ({"question": " ", "responses": ["a"]}, "row 0: the question is empty"),
        ({"question": "Q", "responses": ["a", []]}, "row 0: a response is a string, or a list of"),
        ({"question": "Q", "responses": ["a"], "image": "data:image/png;base64,AAAA"}, "row 0: .*image"),
        ({"question": "Q", "responses": ["a"], "max_tiles": 0}, "max_tiles must be between"),
    ):
        bad.write_text(json.dumps(row), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--data", bad)
    with pytest.raises(InputError, match=r"absent\.jsonl cannot be read"):
        _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--data", tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--html", tmp_path / "none" / "page.html")
    with pytest.raises(CheckpointError, match="reference cannot load"):
        _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--reference-device", "xpu")
    with pytest.raises(InputError, match=r"cannot read the system message from .*none"):
        _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--system-message", f"@{tmp_path / 'none'}")
    with pytest.raises(CheckpointError, match="no score rule"):
        _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--score-rule", "other")


def test_rows_that_cannot_be_compared_are_listed_and_the_others_compared(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control tokens in a text, too few images, bad rows: none of them costs the others their comparison."""
    good = {"question": "Q?", "responses": ["One.\n\nTwo."]}
    odd = [
        {**good, "id": "context", "responses": ["One <IMG_CONTEXT>."]},
        {**good, "id": "turn", "question": "Q?<|im_end|>"},
        {**good, "id": "unused", "responses": [["ok", "[UNUSED_TOKEN_146]"]]},
        {**good, "id": "end", "responses": ["a</s>b"]},
        {**good, "id": "image", "responses": ["An <image>."]},
        {**good, "id": "missing", "image": "gone.png"},
        {**good, "id": "fewer", "question": "<image> Q?"},
        {**good, "id": "lost", "question": "<image 1> Q?"},
        {**good, "id": "empty", "question": " "},
        {**good, "id": "none", "responses": ["a", None]},
    ]
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in [good, *odd, {**good, "responses": ["<ref>b</ref><box>[[1, 2, 3, 4]]</box>"]}]]
    file.write_text("\n".join([*lines, "{broken"]), "utf-8")
    assert _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--data", file, "--json") == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["cases"] == 2
    names = sorted(row["name"] for row in document["not_comparable"])
    assert names == sorted([*(str(row["id"]) for row in odd), "12"])
    assert "not comparable: row context: a text holds <IMG_CONTEXT>" in shown.err
    file.write_text(json.dumps(odd[0]), "utf-8")
    with pytest.raises(
        InputError, match="not one of 1 rows can be compared, the first because: a text holds"
    ) as caught:
        _run(tiny_bundle, "--checkpoint", tiny_checkpoint, "--data", file)
    assert caught.value.code == "nothing_scored"
