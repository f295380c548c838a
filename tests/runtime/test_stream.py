"""Rows over a pipe: each answered before the next is read, in other languages too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vprm_runtime import EngineError, StepScorer
from vprm_runtime.datasets import score_stream

ROOT = Path(__file__).parents[2]


def test_each_row_is_answered_before_the_next_is_read(
    scorer: StepScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.effect_noise((90, 60), 90).convert("RGB").save(tmp_path / "0.png")
    row = {"image": "0.png", "question": "How many?", "responses": ["One.\n\nTwo.", ["Three."]]}
    lines = [
        json.dumps(row),
        json.dumps({**row, "id": "b", "responses": ["Four."], "answer": "4"}),
        "{",
        " ",
        json.dumps({**row, "image": "missing.png"}),
        json.dumps({"question": "And now?", "responses": ["Five."]}),
    ]
    answers: list[dict[str, Any]] = []
    prefixes: list[str] = []
    session = scorer.session_of_tiles
    monkeypatch.setattr(
        scorer, "session_of_tiles", lambda tiles, question: prefixes.append(question) or session(tiles, question)
    )

    def sent() -> Iterator[bytes]:
        asked = 0
        for line in lines:
            assert len(answers) == asked
            asked += bool(line.strip())
            yield f"{line}\n".encode()

    score_stream(scorer, sent(), answers.append, image_root=tmp_path)
    first, second, broken, missing, last = answers
    alone = scorer.score(tmp_path / "0.png", "How many?", row["responses"])  # type: ignore[arg-type]
    assert first == {**alone.to_dict(0), "row": 0}
    assert second == {
        **scorer.score(tmp_path / "0.png", "How many?", ["Four."]).to_dict("b"),
        "answer": "4",
        "row": 1,
    }
    assert broken["error"].startswith("line 3 is not JSON")
    assert "no image file at" in missing["error"]
    assert [answer["id"] for answer in answers] == [0, "b", 2, 3, 4]
    assert last["results"][0]["error"] is None
    assert prefixes[:2] == ["How many?", "And now?"]  # one prefix for the first two rows


def test_what_a_user_should_know_is_said_once(
    scorer: StepScorer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a file of rows: keys that are not read, ids that repeat, responses that are one step each."""
    row = {"id": 4, "question": "Q", "responses": ["One.\nTwo."], "answr": "2", "response": "x"}
    lines = [json.dumps(row).encode() + b"\n"] * 12
    lines.insert(1, b'{"id": 4, "question": "Q", "responses": ["One."], "agregate": "min"}')
    said: list[int] = []
    score_stream(scorer, lines, lambda _: said.append(len(caplog.records)), image_root=tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:4] == [
        "line 1: answr (did you mean answer?) is not read",
        "line 1: response (another key is read instead) is not read",
        "line 2 has an id that an earlier row has: tell rows apart by `row`",
        "line 2: agregate is not read",
    ]
    assert messages[4].startswith("every response is one step although it has line breaks")
    assert len(messages) == 5
    assert said[:2] == [2, 4]  # at the row itself, not at the end


def test_a_broken_engine_ends_the_stream_after_its_answers(
    scorer: StepScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise EngineError("out of memory")

    good = b'{"question": "Q", "responses": ["r"]}\n'
    monkeypatch.setattr(scorer, "session_of_tiles", broken)
    answers: list[dict[str, Any]] = []
    with pytest.raises(EngineError, match=r"failed on 8 rows in a row \(out of memory\): mend the cause"):
        score_stream(scorer, [good] * 20, answers.append, image_root=tmp_path)
    assert [answer["error"] for answer in answers] == ["out of memory"] * 8


def ask(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vprm_runtime.cli.main", "score", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)


def test_command(demo_bundle: Path) -> None:
    bundle = str(demo_bundle)
    rows = '{"question": "Q", "responses": ["One.", "Zwölf."]}\nnothing\n'
    shown = ask(bundle, "--input", "-", text=rows)
    assert shown.returncode == 0
    answers = [json.loads(line) for line in shown.stdout.splitlines()]
    assert answers[0]["results"][1]["steps"][0]["text"] == "Zwölf."
    assert answers[1]["error"].startswith("line 2 is not JSON")
    assert re.fullmatch(r"ready: ONNX Runtime .*\n", shown.stderr)
    assert ask(bundle, "--input", "-").stdout == ""
    for arguments in (["--output", "out.jsonl"], ["--json"], ["--question", "Q"]):
        refused = ask(bundle, "--input", "-", *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "answered on stdout, a line each: leave out --output, --json" in refused.stderr
    assert "is not a directory" in ask(bundle, "--input", "-", "--image-root", "missing").stderr


def test_the_documented_c_program(demo_bundle: Path, tmp_path: Path) -> None:
    """docs/embedding.md: compiled without a warning, it gets an answer for every row."""
    text = (ROOT / "docs/embedding.md").read_text("utf-8")
    (program,) = [block for block in re.findall(r"```c\n(.*?)```", text, re.DOTALL) if "execlp" in block]
    (tmp_path / "ask.c").write_text(program)
    compile_it = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "ask.c", "-o", "ask"]
    subprocess.run(compile_it, cwd=tmp_path, check=True, timeout=60)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    bundle = str(demo_bundle)
    shown = subprocess.run(
        [tmp_path / "ask", bundle], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    answers = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [1, 2, 3]
    assert all(0 < answer["results"][0]["score"] < 1 for answer in answers)
