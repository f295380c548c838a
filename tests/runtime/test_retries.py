"""Rows with errors are tried again, image roots are not mixed, and exit codes tell a pipeline what happened."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vprm_runtime import InputError, StepScorer
from vprm_runtime.cli.main import main
from vprm_runtime.datasets import score_file


@pytest.fixture(scope="module")
def scorer(demo_bundle: Path) -> StepScorer:
    return StepScorer.open(demo_bundle, "cpu", threads=1)


@pytest.fixture
def rows(tmp_path: Path, make_image: Callable[..., Image.Image]) -> Path:
    """Four rows with an image each, in images/, and a row of text alone."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        make_image(seed=number).save(tmp_path / "images" / f"{number}.png")
    lines: list[dict[str, Any]] = [
        {"id": -1, "image": f"{number}.png", "question": "Q?", "responses": ["One."]} for number in range(4)
    ]
    lines.append({"id": -1, "question": "Q?", "responses": ["One."]})
    return write(tmp_path / "rows.jsonl", lines)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_wrong_image_root_then_the_right_one(scorer: StepScorer, rows: Path, tmp_path: Path) -> None:
    """Rows without scores are done again under the right root; those of text alone stay."""
    output = tmp_path / "out.jsonl"
    (tmp_path / "empty").mkdir()
    first = score_file(scorer, rows, output, image_root=tmp_path / "empty")
    assert (first.scored, first.errors, first.usable) == (5, 4, 1)
    second = score_file(scorer, rows, output, image_root=tmp_path / "images")
    assert (second.resumed, second.scored, second.retried, second.errors, second.usable) == (1, 4, 4, 0, 5)
    documents = sorted(read(output), key=lambda document: int(document["row"]))
    assert [document["row"] for document in documents] == [0, 1, 2, 3, 4]
    score_file(scorer, rows, tmp_path / "alone.jsonl", image_root=tmp_path / "images")
    assert documents == sorted(read(tmp_path / "alone.jsonl"), key=lambda document: int(document["row"]))


def test_two_image_roots_are_not_mixed(
    scorer: StepScorer, rows: Path, tmp_path: Path, make_image: Callable[..., Image.Image]
) -> None:
    """Another root for the rest: refused with the one that it was; the output stays as it is."""
    output, other = tmp_path / "out.jsonl", tmp_path / "other"
    shutil.copytree(tmp_path / "images", other)
    (tmp_path / "images" / "3.png").unlink()
    assert score_file(scorer, rows, output, image_root=tmp_path / "images").errors == 1
    before = output.read_bytes()
    with pytest.raises(InputError, match=r"begun with different image root \(it was .*images\)"):
        score_file(scorer, rows, output, image_root=other)
    assert output.read_bytes() == before
    make_image(seed=3).save(tmp_path / "images" / "3.png")
    done = score_file(scorer, rows, output, image_root=tmp_path / "images" / ".." / "images")
    assert (done.resumed, done.scored, done.errors) == (4, 1, 0)


def test_thread_counts_are_part_of_a_run(demo_bundle: Path, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    score_file(StepScorer.open(demo_bundle, "cpu", threads=1), rows, output, image_root=tmp_path / "images")
    with pytest.raises(InputError, match=r"begun with different threads \(it was 1\)"):
        score_file(StepScorer.open(demo_bundle, "cpu", threads=2), rows, output, image_root=tmp_path / "images")


def test_errors_can_be_kept(scorer: StepScorer, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    score_file(scorer, rows, output, image_root=tmp_path / "images")
    before = output.read_bytes()
    kept = score_file(scorer, rows, output, image_root=tmp_path / "images", keep_errors=True)
    assert (kept.resumed, kept.scored, kept.errors, kept.retried) == (5, 0, 1, 0)
    assert output.read_bytes() == before


def test_a_response_that_cannot_be_scored_is_not_tried_again(scorer: StepScorer, tmp_path: Path) -> None:
    """Its error is the row's own: the other responses' scores stand."""
    rows = write(tmp_path / "rows.jsonl", [{"question": "Q?", "responses": ["One.", None]}])
    output = tmp_path / "out.jsonl"
    assert score_file(scorer, rows, output).errors == 1
    again = score_file(scorer, rows, output)
    assert (again.resumed, again.scored, again.errors, again.usable) == (1, 0, 1, 1)


def test_strict_ends_at_the_first_error(scorer: StepScorer, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(InputError, match=r"row 1 \(id -1\): no image file"):
        score_file(scorer, rows, tmp_path / "out.jsonl", image_root=tmp_path / "images", strict=True)
    assert [document["row"] for document in read(tmp_path / "out.jsonl")] == [0]


def score(bundle: Path, *words: object) -> list[str]:
    return ["score", str(bundle), "--device", "cpu", "--threads", "1", *map(str, words)]


def test_exit_codes_of_files(demo_bundle: Path, rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """0 with the count; 3 if not one row could be scored, whatever was done before; 2 for --strict."""
    write(rows, read(rows)[:4])
    run = score(demo_bundle, "--input", rows, "--output", tmp_path / "out.jsonl")
    assert main(run) == 3
    assert "4 rows, 4 with errors (4 done now, 0 before)" in capfd.readouterr().err
    assert main(run) == 3
    assert "4 rows, 4 with errors (4 done now, 4 tried again, 0 before)" in capfd.readouterr().err
    assert main([*run, "--keep-errors"]) == 3
    assert main([*run, "--strict"]) == 2
    assert "row 0 (id -1): no image file" in capfd.readouterr().err
    (tmp_path / "images" / "3.png").unlink()
    run += ["--image-root", str(tmp_path / "images")]
    assert main(run) == 0
    assert "4 rows, 1 with errors (4 done now, 0 before)" in capfd.readouterr().err
    assert main([*run, "--json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["rows"], summary["resumed"], summary["retried"], summary["usable"]) == (4, 3, 1, 3)


def test_exit_codes_of_other_keys(demo_bundle: Path, tmp_path: Path) -> None:
    """Rows of another kind (prompt and completion) cannot be scored either."""
    rows = write(tmp_path / "rows.jsonl", [{"prompt": "Q?", "completion": "One."}] * 3)
    assert main(score(demo_bundle, "--input", rows, "--output", tmp_path / "out.jsonl")) == 3


def test_exit_codes_of_one_question(demo_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    too_long = "word " * 30_000
    one = score(demo_bundle, "--question", "Q?", "--response")
    assert main([*one, "One."]) == 0
    assert main([*one, too_long]) == 3
    assert main([*one, too_long, "--json"]) == 3
    assert json.loads(capfd.readouterr().out.partition("\n{")[2].join(["{", ""]))["best"] is None
    assert main([*one, too_long, "--response", "One."]) == 0
    assert main([*one, too_long, "--response", "One.", "--strict"]) == 2


class _Stdin(io.TextIOWrapper):
    """Standard input with these lines."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__(io.BytesIO(b"".join(lines)))


def test_exit_codes_of_a_stream(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    good = b'{"question": "Q?", "responses": ["One."]}\n'
    for lines, flags, code in (
        ([good], [], 0),
        ([], [], 0),
        ([b"{}\n", good], [], 0),
        ([b"{}\n", b"{\n"], [], 3),
        ([good, b"{}\n", good], ["--strict"], 2),
    ):
        monkeypatch.setattr(sys, "stdin", _Stdin(lines))
        assert main(score(demo_bundle, "--input", "-", *flags)) == code
        answers = capfd.readouterr().out.splitlines()
        assert len(answers) == (2 if code == 2 else len(lines))


@pytest.mark.parametrize("kind", ["processbench", "best-of-n"])
def test_exit_code_of_an_evaluation_without_scores(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    row = {
        "image": "gone.png",
        "question": "Q?",
        "answer": "1",
        "responses": ["1", "2"],
        "process_correctness": [[1], [1]],
    }
    rows = write(tmp_path / "rows.jsonl", [row] * 2)
    assert main(["eval", kind, str(demo_bundle), "--data", str(rows)]) == 3
    assert "not one of 2 rows can be evaluated, the first (row 0) because: no image file" in capfd.readouterr().err
