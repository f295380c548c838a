"""Responses become steps: as the original by default, as the user says, and with a word if that looks wrong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vprm_runtime import InputError, StepScorer
from vprm_runtime.cli.main import main
from vprm_runtime.cli.text_argument import step_separator
from vprm_runtime.datasets import score_file
from vprm_runtime.options import ScoreOptions
from vprm_runtime.prompt.steps import split_steps

STEPS = ["Two bars.", "One is 4.", "The other is 5.", "4 + 5 = 9.", "So 9."]


@pytest.fixture
def scorer(demo_bundle: Path) -> StepScorer:
    return StepScorer.open(demo_bundle, "cpu", threads=1)


@pytest.mark.parametrize(
    ("text", "separator", "drop", "steps"),
    [
        ("a\n\nb", None, False, ["a", "b"]),
        ("a\n\n\n\nb", None, False, ["a", "", "b"]),
        ("a\n\n\n\nb\n\n", None, True, ["a", "b"]),
        ("a\r\n\r\nb", None, False, ["a\r\n\r\nb"]),
        ("a\nb", "\n", False, ["a", "b"]),
        ("a\r\n\r\nb", "\n", True, ["a", "b"]),
        ("a\r\n\r\nb", "\n\n", False, ["a", "b"]),
        ("a\n \nb", "\n", True, ["a", "b"]),
        ("a<step>b\nc<step>", "<step>", True, ["a", "b\nc"]),
        (["a", " ", "b"], "\n", True, ["a", "b"]),
        (["a\nb", ""], "\n", False, ["a\nb", ""]),
        ("", None, False, [""]),
    ],
)
def test_separators_and_empty_steps(
    scorer: StepScorer, text: str | list[str], separator: str | None, drop: bool, steps: list[str]
) -> None:
    rule = scorer.manifest.score_rule
    assert split_steps(text, rule, None, separator, drop) == steps
    result = scorer.score(None, "Q?", [text], step_separator=separator, drop_empty_steps=drop)
    assert [step.text for step in result[0].steps] == steps


def test_the_same_five_steps_however_they_are_joined(scorer: StepScorer) -> None:
    """Five steps as lines, Windows' blank lines, blanks between, empty steps and one at the end."""
    expected = scorer.score(None, "Q?", [STEPS])[0].score
    joined = [
        "\n".join(STEPS),
        "\r\n\r\n".join(STEPS),
        "\n \n".join(STEPS),
        "\n\n\n\n".join(STEPS),
        "\n\n".join([*STEPS, ""]),
    ]
    result = scorer.score(None, "Q?", joined, step_separator="\n", drop_empty_steps=True)
    assert result.scores.tolist() == pytest.approx([expected] * 5)
    (many,) = scorer.score_many([(None, "Q?", joined)], step_separator="\n", drop_empty_steps=True)
    assert many.scores.tolist() == pytest.approx([expected] * 5)
    with scorer.session(None, "Q?") as session:
        again = session.score(joined, step_separator="\n", drop_empty_steps=True)
    assert again.scores.tolist() == pytest.approx([expected] * 5)


def test_options_that_are_wrong(scorer: StepScorer) -> None:
    for empty in ("", "  ", "\n\n"):
        result = scorer.score(None, "Q?", [empty, "One."], drop_empty_steps=True)
        assert "no steps with text" in (result[0].error or "")
        assert result[1].score is not None
    for separator in ("", 5):
        with pytest.raises(InputError, match="step_separator must be a text"):
            ScoreOptions(step_separator=separator)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (None, None),
        ("\\n", "\n"),
        ("\\n\\n", "\n\n"),
        ("\\r\\n", "\r\n"),
        ("\\\\n", "\\n"),
        ("<step>", "<step>"),
        ("\n", "\n"),
    ],
)
def test_separators_as_a_shell_gives_them(typed: str | None, meant: str | None) -> None:
    assert step_separator(typed) == meant


ODD = ("\n".join(STEPS), "line\r\nline", "a\n \nb")


@pytest.mark.parametrize(
    ("responses", "word"),
    [
        ([ODD[0]], "although it has line breaks"),
        (list(ODD), "although it has line breaks"),
        (["First.\\n\\nSecond."], "backslash with an n"),
        ([json.dumps(STEPS)], "1 responses look like lists"),
        ([str(STEPS), "One.\n\nTwo."], "1 responses look like lists"),
        (['  ["One."]\n'], "1 responses look like lists"),
        (["[1, 2] is the box.\n\nSo [3]."], None),
        (["One.\n\nTwo.", ODD[0]], None),
        ([STEPS, ODD[0]], None),
        (["One."], None),
        (["One.\n"], None),
        ([["a\nb"]], None),
    ],
)
def test_a_warning_if_no_response_is_split(
    scorer: StepScorer, caplog: pytest.LogCaptureFixture, responses: list[str | list[str]], word: str | None
) -> None:
    """Once a scorer; no warning where one step is asked for."""
    scorer.score(None, "Q?", responses, max_steps=1)
    assert caplog.records == []
    for _ in range(2):
        scorer.score(None, "Q?", responses)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (word is not None)
    assert all(word in message for message in messages if word)


def test_score_many_warns_too(scorer: StepScorer, caplog: pytest.LogCaptureFixture) -> None:
    list(scorer.score_many([(None, "Q?", [ODD[0]]), (None, "R?", [ODD[1]])]))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def write(path: Path, responses: list[str]) -> Path:
    path.write_text("".join(json.dumps({"question": "Q?", "responses": [text]}) + "\n" for text in responses), "utf-8")
    return path


def test_files_and_the_command_line(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = write(tmp_path / "rows.jsonl", list(ODD))
    command = ["score", str(demo_bundle), "--input", str(rows), "--output"]
    assert main([*command, str(tmp_path / "one.jsonl")]) == 0
    assert "--step-separator" in caplog.text
    caplog.clear()
    split = ["--step-separator", "\\n", "--drop-empty-steps"]
    assert main([*command, str(tmp_path / "many.jsonl"), *split]) == 0
    assert "--step-separator" not in caplog.text
    documents = [json.loads(line) for line in (tmp_path / "many.jsonl").read_text("utf-8").splitlines()]
    assert [len(document["results"][0]["steps"]) for document in documents] == [5, 2, 2]
    assert main([*command, str(tmp_path / "many.jsonl")]) == 2  # another run
    assert "begun with different options" in capfd.readouterr().err
    one = ["score", str(demo_bundle), "--question", "Q?", "--response", "First.\\n\\nSecond."]
    assert main([*one, "--json"]) == 0
    assert "$'First.\\n\\nSecond.'" in caplog.text
    assert len(json.loads(capfd.readouterr().out)["results"][0]["steps"]) == 1
    assert main([*one, "--json", "--step-separator", "\\\\n\\\\n"]) == 0
    assert len(json.loads(capfd.readouterr().out)["results"][0]["steps"]) == 2


def test_the_files_warning_counts_the_whole_run(
    scorer: StepScorer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    score_file(scorer, write(tmp_path / "a.jsonl", ["a\nb", "a\n\nb"]), tmp_path / "a.out")
    assert caplog.records == []
    score_file(scorer, write(tmp_path / "b.jsonl", ["a\nb", "c"]), tmp_path / "b.out")
    assert len(caplog.records) == 1


def test_sharded_runs_split_alike(random_scorer: Callable[[str], StepScorer], tmp_path: Path) -> None:
    """The options reach processes that score shards."""
    from vprm_runtime.datasets.shard_worker import ShardTask, task_line

    options = ScoreOptions(2, 3, "min", "\n", True)
    fields = dict.fromkeys(ShardTask.__dataclass_fields__)
    task = ShardTask(**{**fields, "options": options})  # type: ignore[arg-type]
    assert ScoreOptions(**json.loads(task_line(task))["options"]) == options


def test_warnings_are_on_stderr(demo_bundle: Path) -> None:
    """In a process of its own, where nobody has set logging up."""
    command = [
        sys.executable,
        "-m",
        "vprm",
        "score",
        str(demo_bundle),
        "--question",
        "Q?",
        "--response",
        "a\nb",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "although it has line breaks" in done.stderr
    assert json.loads(done.stdout)["best"] == 0


@pytest.mark.parametrize("separator", ["\r\n\r\n", "\n\n"])
@pytest.mark.parametrize("joiner", ["\r\n\r\n", "\n\n"])
def test_line_breaks_of_windows_count_in_separators_too(demo_scorer: StepScorer, separator: str, joiner: str) -> None:
    rule = demo_scorer.manifest.score_rule
    assert split_steps(joiner.join(["One.", "Two."]), rule, separator=separator) == ["One.", "Two."]


@pytest.mark.parametrize("most", [10**30, 10**400])
def test_a_limit_beyond_all_steps_is_none(demo_scorer: StepScorer, most: int) -> None:
    found = demo_scorer.score(None, "Which?", ["One.\n\nTwo."], max_steps=most)
    assert found.step_scores[0].tolist() == demo_scorer.score(None, "Which?", ["One.\n\nTwo."]).step_scores[0].tolist()


def test_messages_about_options_are_short() -> None:
    for name in ("max_tiles", "max_steps", "aggregate"):
        with pytest.raises(InputError) as caught:
            ScoreOptions(**{name: -(10**4000) if name != "aggregate" else "a" * 4000})  # type: ignore[arg-type]
        assert len(str(caught.value)) < 400
