"""Terminals: nothing of strangers steers them; any encoding, closed streams, Ctrl-C, signs of life."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vprm_demo import checkpoint_dir
from vprm_runtime.cli.console import SafeConsole, shown
from vprm_runtime.cli.main import build_parser, main
from vprm_runtime.cli.progress import Display, activity

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and streams of POSIX systems")
HOSTILE = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link", "\x9b2J", "a\rb", "\x08\x08\x08", "\x00",
    "\u202egnp.exe", "\u2066x\u2069", "\x7f", "\x1b[2K\x1b[1A", "\ud83d", "\u2028", "a\\[/red]", "[bold]b[/bold]",
]  # fmt: skip
COMMAND = [sys.executable, "-m", "vprm"]


def vprm(*words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, with the shell's redirections."""
    line = " ".join([*COMMAND, *(f"'{word}'" for word in words), shell])
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, timeout=120, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_text_is_shown_as_text(text: str) -> None:
    escaped = shown(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", escaped)
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=True, markup=False, emoji=False, width=200).print(text, highlight=False)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", stream.getvalue())
    assert shown("line\n\ttab é 答案 😀") == "line\n\ttab é 答案 😀"


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\0" not in text], ids=ascii)
def test_what_is_scored_or_refused_steers_no_terminal(
    text: str, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Questions, steps and error messages."""
    code = main(["score", str(demo_bundle), "--question", f"How many {text}?", "--response", f"Two {text}."])
    scored = capsys.readouterr()
    refused = main(["score", str(demo_bundle), "--image", f"a{text}.png", "--question", "q", "--response", "a"])
    error = capsys.readouterr()
    assert refused == 2 and code in (0, 2, 3)
    for shown_text in (scored.out, scored.err, error.out, error.err):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown_text)
    assert error.err.startswith("error: ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_encodings(encoding: str, demo_bundle: Path) -> None:
    words = ["score", str(demo_bundle), "--question", "Wie viele 答案 ★?", "--response", "Zwölf ★."]
    table = vprm(*words, PYTHONIOENCODING=encoding)
    assert table.returncode == 0 and b"Traceback" not in table.stderr
    document = vprm(*words, "--json", PYTHONIOENCODING=encoding)
    assert document.returncode == 0
    assert json.loads(document.stdout.decode(encoding))["results"][0]["steps"][0]["text"] == "Zwölf ★."


def test_closed_streams(demo_bundle: Path, tmp_path: Path) -> None:
    """An error where the stream is needed, none if it is not; its number is no other file's."""
    words = ["score", str(demo_bundle), "--question", "Q", "--response", "a"]
    closed = vprm(*words, shell=">&-")
    assert closed.returncode == 2
    assert closed.stderr == b"error: stdout is closed, which this needs: leave out  >&-  or  <&-\n"
    assert vprm(*words, shell="2>&-").returncode == 0
    assert vprm(*words, shell="2>&- <&-").returncode == 0
    (tmp_path / "rows.jsonl").write_text('{"question": "Q", "responses": ["a"]}\n')
    batch = [
        "score",
        str(demo_bundle),
        "--input",
        str(tmp_path / "rows.jsonl"),
        "--output",
        str(tmp_path / "out.jsonl"),
    ]
    assert vprm(*batch, shell="<&- >&- 2>&-").returncode == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
    worker = vprm("score", str(demo_bundle), "--input", "-", shell="<&-")
    assert worker.returncode == 2 and b"error: stdin is closed, which this needs" in worker.stderr
    assert b"Traceback" not in worker.stderr
    for command in (words, ["--help"], ["score", "--help"]):
        for prefix in ("", "PYTHONUNBUFFERED=1 "):
            full = subprocess.run(
                ["/bin/sh", "-c", prefix + '"$@" > /dev/full', "sh", *COMMAND, *command],
                capture_output=True, timeout=120, check=False,
            )  # fmt: skip
            assert full.returncode == 2 and b"No space left" in full.stderr and b"Traceback" not in full.stderr


@pytest.mark.parametrize("words", [["inspect"], ["--help"], ["score"], ["inspect", "--json"], ["score", "--help"]])
def test_nobody_reads(words: list[str], demo_bundle: Path) -> None:
    """Exit code 141 as for a program that SIGPIPE ends, and no traceback."""
    named = [words[0], str(demo_bundle), *words[1:]] if words[0] == "inspect" else words
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [*COMMAND, *named], stdout=writing, stderr=subprocess.PIPE, timeout=120, check=False, env=dict(os.environ)
    )
    os.close(writing)
    assert run.returncode == 141 and b"Traceback" not in run.stderr and b"Exception" not in run.stderr


@pytest.mark.parametrize("delay_ms", range(150, 1500, 150))
def test_ctrl_c_at_any_moment(delay_ms: int, demo_bundle: Path) -> None:
    """130 and one line, or the whole result; in the imports, too."""
    with subprocess.Popen(
        [*COMMAND, "score", str(demo_bundle), "--question", "Q", "--response", "a"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts,
    ) as child:  # fmt: skip
        time.sleep(delay_ms / 1000)
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=60)
    assert child.returncode in (0, 130)
    assert b"Traceback" not in error and b"Exception" not in error


def heed_interrupts() -> None:
    """Whatever these tests were started with: a shell starts what runs in the background with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_is_not_for_what_runs_in_the_background(demo_bundle: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "score", str(demo_bundle), "--input", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as child:  # fmt: skip
        assert child.stderr is not None and child.stdin is not None
        assert b"ready" in child.stderr.readline()
        child.send_signal(signal.SIGINT)
        answers, error = child.communicate(b'{"question": "Q", "responses": ["a"]}\n', timeout=60)
    assert child.returncode == 0 and error == b"" and len(answers.splitlines()) == 1


@pytest.mark.parametrize("delay_ms", [400, 550, 700, 850, 1000, 1300, 1700])
def test_ctrl_c_with_workers(delay_ms: int, demo_bundle: Path, tmp_path: Path) -> None:
    """A terminal sends it to the workers too, who may be in the midst of their imports."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Q{n}", "responses": ["a b c"]}) + "\n" for n in range(2000)))
    words = ["score", str(demo_bundle), "--input", str(rows), "--output", str(tmp_path / "out"), "--processes", "2"]
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts,
        start_new_session=True,
    ) as child:  # fmt: skip
        time.sleep(delay_ms / 1000)
        os.killpg(child.pid, signal.SIGINT)
        _, error = child.communicate(timeout=120)
    assert child.returncode in (0, 130)
    assert b"Traceback" not in error and b"Exception" not in error


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_temporary_files_go_with_the_process(name: str, tmp_path: Path) -> None:
    """Folders of `with` statements, and files of objects that are alive when it ends."""
    code = (
        "import gzip, sys, tempfile, time, pathlib, vprm_runtime.cli.main as m\n"
        "from vprm_runtime.datasets import open_rows\n"
        "def run(words):\n"
        "    with tempfile.TemporaryDirectory():\n"
        "        rows = open_rows(pathlib.Path(sys.argv[1]))\n"
        "        print('ready', flush=True)\n"
        "        for _ in range(6000):\n            time.sleep(0.01)\n"
        "m._run = run\nsys.exit(m.main([]))"
    )
    rows, places = tmp_path / "rows.gz", tmp_path / "tmp"
    rows.write_bytes(gzip.compress(b'{"question": "Q", "responses": ["a"]}'))
    places.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(rows)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(places)},
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        assert len(list(places.iterdir())) == 2
        child.send_signal(getattr(signal, name))
        _, error = child.communicate(timeout=60)
    assert child.returncode == -getattr(signal, name) and error == b""
    assert not list(places.iterdir())


@pytest.mark.parametrize("threads", ["1099511627776", "100000", "0", "-1", "x", "4294967297", "1" * 5000])
def test_numbers_of_threads(threads: str, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", str(demo_bundle), "--question", "Q", "--response", "a", "--threads", threads]
    try:
        code = main(words)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2 and "threads" in capsys.readouterr().err


def test_a_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Done, rate, time left and errors; also while nothing is finished."""
    came = threading.Event()
    with Display("rows", interval_s=0.01) as display:
        display.update("scoring", 100, 1000, 0)
        display.update("scoring", 130, 1000, 3)
        lines: list[str] = []
        while len(lines) < 3 and not came.wait(0.01):
            lines += capsys.readouterr().err.splitlines()
    number = r"[\d.,]+"
    assert re.fullmatch(rf"scoring: 130 of 1,000 rows, {number} rows/s, {number} (s|min|h) left, 3 errors", lines[-1])


@pytest.mark.parametrize(
    ("unit", "states", "line"),
    [
        ("bytes", [(0, None)], "it: 0 bytes"),
        ("bytes", [(0, 16_000_000_000)], "it: 0 bytes of 16.0 GB"),
        ("steps", [(3, 3)], "it: 3 of 3 steps"),
        ("rows", [(0, None)], "it: 0 rows"),
        ("rows", [(0, 0)], "it: 0 of 0 rows"),
    ],
)
def test_lines(unit: str, states: list[Any], line: str) -> None:
    display = Display(unit)
    for done, total in states:
        display.update("it", done, total)
    assert display.line() == line


def test_each_phase_is_counted_in_its_own_unit() -> None:
    display = Display("steps")
    display.update("export fp32", 0, 16_000_000_000, unit="bytes")
    assert display.line() == "export fp32: 0 bytes of 16.0 GB"
    display.update("judge int8", 0, 18, unit="rows")
    assert display.line() == "judge int8: 0 of 18 rows"


def test_what_goes_on_is_said_until_there_are_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with activity("bench") as say:
        say("roofline")
        say("round 1 of 3: vprm", 2, 12)
    display = Display("calls")
    display.update("bench", 0, None, doing="roofline")
    assert re.fullmatch(r"bench: roofline, \d+ s so far", display.line())
    display.update("bench", 0, 12, doing="warm-up: vprm")
    display.update("bench", 2, 12, doing="round 1 of 3: vprm")
    assert re.match(r"bench: 2 of 12 calls \(round 1 of 3: vprm\), [\d,.]+ calls/s, \d+ s left", display.line())
    assert capsys.readouterr().out == ""


def test_long_commands_tell_that_they_live(demo_bundle: Path, tmp_path: Path) -> None:
    """Each that takes long has a display: its lines come from there."""
    import vprm_runtime.cli.progress as progress

    code = (
        "import sys, time, vprm_runtime.cli.progress as p\n"
        "p.Display.__init__.__defaults__ = (0.02,)\n"
        "told, line, update = set(), p.Display.line, p.Display.update\n"
        "def tell(self):\n    told.add((self._label, self._total)); return line(self)\n"
        "def wait(self, *a, **k):\n    update(self, *a, **k)\n"
        "    while self._thread and not self._ended.is_set() and (self._label, self._total) not in told:\n"
        "        time.sleep(0.001)\n"
        "p.Display.line, p.Display.update = tell, wait  # work goes on only after a line, however fast it is\n"
        "from vprm_runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    assert progress.LINE_INTERVAL_S == 30
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Q{n}", "responses": ["a b c"]}) + "\n" for n in range(60)))
    for words, line in (
        (
            ["score", str(demo_bundle), "--input", str(rows), "--output", str(tmp_path / "out")],
            rb"scoring: \d+ of 60 rows",
        ),
        (["inspect", str(demo_bundle), "--verify"], rb"checking: .* of .*B"),
        (["score", str(demo_bundle), "--verify", "--question", "Q", "--response", "a"], rb"checking: .* of .*B"),
        (["parity", "--limit", "1"], rb"parity: 0 of 1 cases \(case .*\)"),
        (
            ["bench", "preprocess", "--width", "90", "--height", "60", "--rounds", "1", "--roofline-size", "64"],
            rb"preprocess: \d+ of 18 calls \((warm-up|round 1 of 1): \w+\)",
        ),
        (["shard", str(rows), "-o", str(tmp_path / "shards"), "--shards", "2"], rb"cutting: \d+ rows"),
        (
            ["calibrate", str(checkpoint_dir()), "--max-rows", "1", "-o", str(tmp_path / "calibration")],
            rb"calibrating: 0 steps",
        ),
        (["bench", "demo-quality", "--rows", "2", "--questions", "2", "--variants", "2"], rb"0 of 2 rows \(images\)"),
        (["bench", "random-checkpoint", str(tmp_path / "random")], rb"writing: .* of .*B"),
    ):
        run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=600, check=True)
        assert re.search(line, run.stderr), run.stderr


@pytest.mark.parametrize("arguments", [["score", "b", "--\x1b[31m"], ["\x1b]0;title\x07"], ["eval", "\x9b2J"]])
def test_arguments_that_argparse_refuses_are_escaped(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "\\x" in printed
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed)
