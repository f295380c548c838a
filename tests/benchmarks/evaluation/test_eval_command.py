"""`vprm eval` from arguments to output, on the demo PRM and its generated rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from vprm_benchmarks.evaluation.command import register
from vprm_runtime import InputError, StepScorer
from vprm_runtime.cli.main import main

pytest.importorskip("math_verify", reason="comparing answers needs math-verify")
pytest.importorskip("jinja2", reason="the page needs Jinja")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Generated rows go here, not into the user's cache."""
    monkeypatch.setenv("VPRM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: str | Path) -> int:
    """`vprm eval` with arguments; the exit code."""
    parser = argparse.ArgumentParser(prog="vprm")
    register(parser.add_subparsers(required=True))
    args = parser.parse_args(["eval", *map(str, arguments)])
    assert args.extra == "eval"
    return int(args.run(args))


def test_processbench_on_the_built_in_rows(
    demo_bundle: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One JSON document and nothing else on stdout; the page is written; kept scores are gone on from."""
    page, scores = tmp_path / "page.html", tmp_path / "scores.jsonl"
    arguments = ("processbench", demo_bundle, "--demo-rows", "6", "--json", "--threshold", "0.5", "--scores", scores)
    assert run(*arguments, "--html", page) == 0
    out = capsys.readouterr().out
    document = json.loads(out)
    assert (document["evaluation"], document["samples"], document["left_out"]["count"]) == ("processbench", 6, 0)
    assert [item["threshold"] for item in document["thresholds"]] == [0.5]
    pooled = document["thresholds"][0]["pooled"]
    steps = document["steps"]
    assert pooled["tp"] + pooled["fn"] == steps["right"] and pooled["tn"] + pooled["fp"] == steps["wrong"]
    assert set(document["auc"]["sources"]) == {"angles", "bars", "shapes", "tables"}
    assert document["published"] == []
    text = page.read_text("utf-8")
    assert text.count("<article") == 6 and str(tmp_path) not in text
    written = scores.read_bytes()
    assert run(*arguments) == 0
    assert (capsys.readouterr().out, scores.read_bytes()) == (out, written)


@pytest.mark.parametrize("kind", ["processbench", "best-of-n"])
def test_what_an_interruption_would_lose_is_said(
    kind: str, demo_bundle: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is scored; not if the scores are kept."""
    assert run(kind, demo_bundle, "--demo-rows", "4") == 0
    shown = capsys.readouterr().err
    assert shown.startswith("the scores are kept in no file: if this is interrupted, it begins anew; --scores FILE")
    assert run(kind, demo_bundle, "--demo-rows", "4", "--scores", tmp_path / "scores.jsonl") == 0
    assert "are kept in no file" not in capsys.readouterr().err


def test_best_of_n_on_the_built_in_rows(
    demo_bundle: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for every way of choosing; answers as judged agree with the generator's labels; tables without --json."""
    page, scores = tmp_path / "page.html", tmp_path / "scores.jsonl"
    arguments = ("best-of-n", demo_bundle, "--demo-rows", "4", "--scores", scores)
    assert run(*arguments, "--json", "--html", page) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["n"], document["questions"], document["responses"]) == ([1, 2, 4, 8], 4, 32)
    assert document["answers_agree_with_labels"] == 1.0
    assert len(document["accuracy"]) == 10 and document["accuracy"]["pass@N"][-1] == 1.0
    first = json.loads(scores.read_text("utf-8").splitlines()[0])
    assert len(first["outcome"]) == len(first["results"]) == 8
    assert page.read_text("utf-8").count("chosen</span>") == 4
    assert run(*arguments) == 0
    shown = capsys.readouterr().out
    assert "majority vote" in shown and "N = 8" in shown


def test_missing_images_are_listed_and_counted(
    demo_bundle: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of four rows have no image: evaluated are the others."""
    from vprm_demo import held_out_rows

    rows = held_out_rows(4)
    for line in rows.read_text("utf-8").splitlines()[:2]:
        (rows.parent / json.loads(line)["image"][0]).unlink()
    assert run("processbench", demo_bundle, "--data", rows, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["samples"], document["left_out"]["count"]) == (2, 2)
    assert all("no image file" in row["reason"] for row in document["left_out"]["rows"])
    for kind in ("processbench", "best-of-n"):
        with pytest.raises(InputError, match=r"not one of 4 rows .*first \(row \S+\) because: no image file at"):
            run(kind, demo_bundle, "--data", rows, "--image-root", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threshold", "2"), "from 0 to 1"),
        (("--html", "."), "cannot be written"),
        (("--data", "missing.jsonl"), "cannot be read"),
        (("--data", "unlabelled.jsonl"), "process_correctness"),
    ],
)
def test_bad_arguments(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str], message: str
) -> None:
    """Errors that `vprm` turns into one line and exit code 2."""
    monkeypatch.chdir(tmp_path)
    Path("unlabelled.jsonl").write_text('{"question": "Q", "responses": ["r"]}\n')
    with pytest.raises(InputError, match=message):
        run("processbench", demo_bundle, *arguments)


def test_score_file_from_the_command_line(
    demo_bundle: Path, demo_scorer: StepScorer, cache: Path, tmp_path: Path
) -> None:
    """`vprm score --input --output` takes the generated rows as they are."""
    from vprm_demo import best_of_n_rows

    rows = best_of_n_rows(2, n_responses=2)
    output = tmp_path / "out.jsonl"
    assert main(["score", str(demo_bundle), "--input", str(rows), "--output", str(output), "--max-tiles", "1"]) == 0
    documents = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [document["id"] for document in documents] == ["bon-00000", "bon-00001"]
    assert all(len(document["process_correctness"]) == len(document["results"]) == 2 for document in documents)
