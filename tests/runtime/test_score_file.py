"""Scoring files of rows: one line a row, resumed after any kill, whatever the file holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pytest
from PIL import Image
from tests.support.rows import read_rows, write_rows

from vprm_runtime import EngineError, InputError, ScoreOptions, StepScorer
from vprm_runtime.datasets import open_rows, score_file
from vprm_runtime.datasets.parsed_row import BadRow
from vprm_runtime.datasets.prefetch import rows_with_tiles
from vprm_runtime.datasets.row import Row


def test_each_row_equals_scoring_it_alone(scorer: StepScorer, data: Path, tmp_path: Path) -> None:
    """Grouping and order change no bit of a row's scores; labels stand beside them; the session is shared."""
    calls: list[tuple[int, int | None, int]] = []
    summary = score_file(scorer, data, tmp_path / "out.jsonl", progress=lambda *state: calls.append(state))
    assert (summary.rows, summary.resumed, summary.scored, summary.errors) == (40, 0, 40, 0)
    assert (calls[0], calls[-1], len(calls)) == ((0, 40, 0), (40, 40, 0), 41)
    documents = read_rows(tmp_path / "out.jsonl")
    order = [int(document["id"].removeprefix("row-")) for document in documents]
    assert order == sorted(range(40), key=lambda number: (number % 8, number))
    rows = read_rows(data)
    for document in documents:
        row = rows[int(document["id"].removeprefix("row-"))]
        alone = scorer.score(data.parent / row["image"], row["question"], row["responses"])
        assert document == {**alone.to_dict(row["id"]), "answer": row["answer"], "row": rows.index(row)}


def test_one_session_for_each_image_and_question(
    scorer: StepScorer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 rows about 8 images pay for 8 prefixes."""
    opened: list[str] = []
    tiled: list[Any] = []
    session, tiles = scorer.session_of_tiles, scorer.tiles

    def counting(images: Any, question: str) -> Any:
        opened.append(question)
        return session(images, question)

    def tiling(images: Any, max_tiles: int | None) -> Any:
        tiled.append(images)
        return tiles(images, max_tiles)

    monkeypatch.setattr(scorer, "session_of_tiles", counting)
    monkeypatch.setattr(scorer, "tiles", tiling)
    score_file(scorer, data, tmp_path / "out.jsonl")
    assert len(opened) == len(tiled) == 8


def test_the_next_image_is_tiled_while_a_row_is_scored(data: Path) -> None:
    """Each row gets its own tiles or its own error, made in another thread before the row is asked for."""
    rows = [row for row in open_rows(data) if isinstance(row, Row)][::5]
    begun = [Event() for _ in rows]
    threads = set()

    def tiles(row: Row) -> Any:
        number = rows.index(row)
        threads.add(current_thread().name)
        begun[number].set()
        if number == 3:
            raise InputError("not an image")
        return [row.images]

    bad = BadRow("bad", "not a row")
    found = []
    for row, make in rows_with_tiles([*rows[:2], bad, *rows[2:]], tiles):
        if isinstance(row, BadRow):
            found.append(make())
            continue
        number = rows.index(row)
        if number < len(rows) - 1 and number != 1:
            assert begun[number + 1].wait(timeout=60)
        if number == 3:
            with pytest.raises(InputError, match="not an image"):
                make()
        else:
            found += make()
    assert found == [*(row.images for row in rows[:2]), [], *(row.images for row in rows[2:] if row is not rows[3])]
    assert all(name.startswith("tiles") for name in threads)


def test_bad_rows_have_an_error_and_the_others_their_scores(scorer: StepScorer, tmp_path: Path) -> None:
    """A line a row, whatever is wrong with it."""
    good = {"question": "Q", "responses": ["s1\n\ns2"]}
    lines = [
        json.dumps(good),
        "",
        "{broken",
        json.dumps({**good, "id": "no image", "image": "missing.png", "answer": "4"}),
        json.dumps({**good, "id": "blank", "question": " "}),
        json.dumps({**good, "id": "half", "responses": [5, "s1"]}),
        json.dumps({"id": "unknown", "text": "t"}),
        '{"question": "half \\ud83d", "responses": ["r"]}',
        '{"id": "whole \\ud83d\\ude00", "question": "Q", "responses": ["r"]}',
        json.dumps({**good, "id": "not a number", "answer": float("nan")}),
        '{"id": ' + "9" * 5000 + "}",
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    summary = score_file(scorer, tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
    documents = {document["id"]: document for document in read_rows(tmp_path / "out.jsonl")}
    assert (summary.rows, summary.scored, summary.errors) == (10, 10, 7)
    assert set(documents) == {0, 1, 6, 9, "no image", "blank", "half", "unknown", "whole 😀", "not a number"}
    assert documents[0]["best"] == 0
    assert "line 3 is not JSON" in documents[1]["error"]
    assert "half a surrogate pair" in documents[6]["error"]
    assert "line 11 is not JSON" in documents[9]["error"]
    assert documents["not a number"]["best"] == 0 and "answer" not in documents["not a number"]
    assert [documents[name]["row"] for name in (0, 6, "whole 😀")] == [0, 6, 7]
    assert "--image-root" in documents["no image"]["error"] and documents["no image"]["answer"] == "4"
    assert "question is empty" in documents["blank"]["error"]
    assert "no known kind" in documents["unknown"]["error"]
    assert documents["half"]["best"] == 1 and "list of strings" in documents["half"]["results"][0]["error"]


def test_options_and_limits_of_rows(scorer: StepScorer, data: Path, tmp_path: Path) -> None:
    """The run's options reach the scorer, a row's own limits too."""
    row = {"image": "7.png", "question": "Q", "responses": ["a\n\nb\n\nc\n\nd"]}
    write_rows(data.parent / "limits.jsonl", [row, {**row, "max_steps": 1, "max_tiles": 1}])
    score_file(scorer, data.parent / "limits.jsonl", tmp_path / "out.jsonl", options=ScoreOptions(2, 4, "min"))
    first, second = read_rows(tmp_path / "out.jsonl")
    assert [step["text"] for step in first["results"][0]["steps"]] == ["a\n\nb", "c\n\nd"]
    assert first["results"][0]["score"] == min(step["score"] for step in first["results"][0]["steps"])
    assert len(second["results"][0]["steps"]) == 1
    assert (first["tiles"][0] > 1, second["tiles"]) == (True, [1])


CHILD = """
import sys
from vprm_runtime import StepScorer
from vprm_runtime.datasets import score_file
bundle, rows, output = sys.argv[1:]
score_file(StepScorer.open(bundle, threads=1), rows, output)
"""


def test_ten_kills_lose_and_repeat_nothing(
    random_checkpoint: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle, ten times, at growing lengths of output: in the end every byte is as if undisturbed."""
    from vprm_export import export_bundle

    export_bundle(random_checkpoint("internlm2"), tmp_path / "bundle")
    rows = read_rows(data)
    many = write_rows(
        data.parent / "many.jsonl", [{**row, "id": f"{copy}-{row['id']}"} for copy in range(12) for row in rows]
    )
    score_file(StepScorer.open(tmp_path / "bundle", threads=1), many, tmp_path / "undisturbed.jsonl")
    whole = (tmp_path / "undisturbed.jsonl").read_bytes()
    output = tmp_path / "out.jsonl"
    arguments = [sys.executable, "-c", CHILD, str(tmp_path / "bundle"), str(many), str(output)]
    for kill in range(1, 11):
        wanted = len(whole) * kill // 11
        with subprocess.Popen(arguments) as child:
            while child.poll() is None and (not output.exists() or output.stat().st_size < wanted):
                time.sleep(0.001)
            assert child.poll() is None, "the child ended before it was killed"
            os.kill(child.pid, signal.SIGKILL)
        assert wanted <= output.stat().st_size < len(whole)
        output.write_bytes(output.read_bytes() + b'{"id": "row-'[:kill])  # what a torn write leaves
    subprocess.run(arguments, check=True)
    assert output.read_bytes() == whole


def test_resuming_another_run_is_refused(scorer: StepScorer, data: Path, tmp_path: Path) -> None:
    """Other rows, options or a file of unknown origin: an error that says so, and the output stays as it was."""
    output = tmp_path / "out.jsonl"
    assert score_file(scorer, data, output).scored == 40
    before = output.read_bytes()
    again = score_file(scorer, data, output)
    assert (again.scored, again.resumed, output.read_bytes()) == (0, 40, before)
    with pytest.raises(InputError, match="begun with different options: choose another output"):
        score_file(scorer, data, output, options=ScoreOptions(max_steps=1))
    other = write_rows(data.parent / "other.jsonl", read_rows(data)[:5])
    with pytest.raises(InputError, match="begun with different input"):
        score_file(scorer, other, output)
    (tmp_path / "out.jsonl.run.json").unlink()
    with pytest.raises(InputError, match="nothing says which run wrote it"):
        score_file(scorer, data, output)
    assert output.read_bytes() == before


def test_a_removed_line_is_scored_again_and_a_strange_one_refused(
    scorer: StepScorer, data: Path, tmp_path: Path
) -> None:
    """What is done is known by id, so lines may be taken out; ids that are not in the input are an error."""
    output = tmp_path / "out.jsonl"
    score_file(scorer, data, output)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert score_file(scorer, data, output).scored == 1
    assert sorted(output.read_bytes().splitlines(keepends=True)) == sorted(lines)
    output.write_bytes(b"".join([*lines, lines[0]]))
    with pytest.raises(
        InputError, match=r"line 41 of .* has row 0, which the input has not, or which is there already"
    ):
        score_file(scorer, data, output)
    output.write_bytes(lines[0] + b"damaged\n" + lines[1])
    with pytest.raises(InputError, match=r"line 2 of .* is damaged"):
        score_file(scorer, data, output)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "7", "1e400", "true", '"0.5"'])
def test_an_output_whose_scores_are_none_is_damaged(value: str, scorer: StepScorer, tmp_path: Path) -> None:
    data, output = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    data.write_text('{"id": 1, "question": "q", "responses": ["a"]}\n')
    score_file(scorer, data, output)
    line = output.read_text()
    score = json.dumps(json.loads(line)["results"][0]["score"])
    output.write_text(line.replace(score, value))
    with pytest.raises(InputError, match=r"line 1 of .* is damaged"):
        score_file(scorer, data, output)


def test_rows_with_equal_ids_are_all_scored(scorer: StepScorer, tmp_path: Path) -> None:
    """Ids need not be unique, and 1 and "1" differ; resuming still knows how many are done."""
    rows = [{"id": row_id, "question": "Q", "responses": [f"r{n}"]} for n, row_id in enumerate([1, "1", 1, "x", "x"])]
    output = tmp_path / "out.jsonl"
    score_file(scorer, write_rows(tmp_path / "rows.jsonl", rows), output)
    lines = output.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == [1, "1", 1, "x", "x"]
    output.write_bytes(b"".join(lines[:4]))
    assert score_file(scorer, tmp_path / "rows.jsonl", output).scored == 1
    assert output.read_bytes().splitlines(keepends=True) == lines


def test_unusable_output(scorer: StepScorer, data: Path, tmp_path: Path) -> None:
    """A directory, a missing folder, the input itself, a file that another process writes."""
    for target, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "out.jsonl", "cannot be written"),
        (data, "is the input"),
    ):
        with pytest.raises(InputError, match=message):
            score_file(scorer, data, target)
    with pytest.raises(InputError, match="not a directory"):
        score_file(scorer, data, tmp_path / "out.jsonl", image_root=tmp_path / "no")
    fcntl = pytest.importorskip("fcntl", reason="no advisory locks on this system")
    with (tmp_path / "out.jsonl").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="written by another process"):
            score_file(scorer, data, tmp_path / "out.jsonl")


class FailingScorer:
    """Fails like a broken engine on the rows whose question is "fail"."""

    def __init__(self, scorer: StepScorer) -> None:
        self.manifest, self.engine, self.max_block_tokens = scorer.manifest, scorer.engine, scorer.max_block_tokens
        self._scorer = scorer

    def tiles(self, images: Any, max_tiles: int | None) -> Any:
        """None, whatever the images."""
        return []

    def session_of_tiles(self, tiles: Any, question: str) -> Any:
        """As the scorer's, or EngineError."""
        if question == "fail":
            raise EngineError("out of memory")
        return self._scorer.session_of_tiles(tiles, question)


def test_engine_failures(scorer: StepScorer, tmp_path: Path) -> None:
    """A row on which the engine fails is written as an error; a broken engine ends the run and writes none of them."""
    failing: Any = FailingScorer(scorer)
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    good = {"question": "Q", "responses": ["r"]}
    bad = {"question": "fail", "responses": ["r"], "image": "0.png"}
    few = write_rows(tmp_path / "few.jsonl", [good, bad, {**good, "question": "R"}, {**bad, "max_tiles": 2}])
    assert score_file(failing, few, tmp_path / "few.out.jsonl").errors == 2
    assert [row.get("error") for row in read_rows(tmp_path / "few.out.jsonl")] == [None, "out of memory"] * 2
    many = write_rows(tmp_path / "many.jsonl", [good, *[bad] * 20])
    with pytest.raises(EngineError, match=r"8 rows in a row.*it goes on from here"):
        score_file(failing, many, tmp_path / "many.out.jsonl")
    assert len(read_rows(tmp_path / "many.out.jsonl")) == 1


class NoModel:
    """Stands in for a scorer where only the reading and writing count."""

    def __init__(self, scorer: StepScorer) -> None:
        self.manifest, self.engine, self.max_block_tokens = scorer.manifest, scorer.engine, scorer.max_block_tokens

    def tiles(self, images: Any, max_tiles: int | None) -> Any:
        """None."""
        return []

    def session_of_tiles(self, tiles: Any, question: str) -> Any:
        """Scores every step 0.5."""
        return self

    def close(self) -> None:
        """Nothing to give back."""

    def score(self, responses: Any, **how: Any) -> Any:
        """A result of the real type."""
        from vprm_runtime import CandidateScore, ScoreResult, StepScore

        return ScoreResult(
            (), tuple(CandidateScore(n, 0.5, (StepScore(text, 0.5),)) for n, text in enumerate(responses))
        )


def test_ten_thousand_rows_in_bounded_memory(scorer: StepScorer, tmp_path: Path) -> None:
    """40 MB of rows, scored and then resumed as done, in a few MB."""
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(10_000):
            row = {"id": f"row-{number}", "question": f"{number % 5000}?", "responses": ["x" * 2000, "y" * 2000]}
            file.write(json.dumps(row) + "\n")
    fake: Any = NoModel(scorer)
    tracemalloc.start()
    try:
        assert score_file(fake, tmp_path / "rows.jsonl", tmp_path / "out.jsonl").scored == 10_000
        assert score_file(fake, tmp_path / "rows.jsonl", tmp_path / "out.jsonl").resumed == 10_000
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8_000_000
    source = open_rows(tmp_path / "rows.jsonl")
    questions = [row.question for row in source if isinstance(row, Row)]
    assert len(questions) == 10_000
    assert questions[0::2] == questions[1::2], "rows with one question are neighbours"
