"""kill -9 at random moments of commands that write: what they leave, and what running them again makes of it.

A trial starts the command once more on the same output and kills it; when the output is whole, it is compared byte for
byte with that of an undisturbed run, and the next trial begins anew. At the end the command runs to its end.
`python -m tests.fuzz kill-score --count 50 --seed 1`.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vprm_demo
from vprm_runtime import Bundle

Found = Callable[[int, Exception], None]
TIME_LIMIT_S = 3600  # of a run on a busy machine
LATEST_S = 10.0  # of a kill: later ones only cost time, since runs go on
ROWS = 200  # of `score`, so that most of its time is scoring


class FindingError(Exception):
    """A trial went wrong."""


@dataclass(frozen=True)
class Command:
    """What is killed: its words with an output, what is compared of that, and how often one run is killed at most."""

    words: Callable[[Path], list[str]]
    content: Callable[[Path], dict[str, Any]]
    is_bundle: bool
    kills: int


def command_of(kind: str, work: Path, bundle: Path) -> Command:
    """The command of a campaign, with inputs in `work`."""
    checkpoint = str(vprm_demo.checkpoint_dir())
    rows = vprm_demo.best_of_n_rows(24, n_responses=2, cache_dir=work / "rows")
    if kind == "kill-export":
        return Command(lambda out: ["export", checkpoint, str(out), "--precision", "fp16"], _folder, True, 1)
    if kind == "kill-calibrate":
        words = ["calibrate", str(bundle), "--data", str(rows), "--max-rows", "8", "-o"]
        return Command(lambda out: [*words, str(out)], _file, False, 3)
    if kind == "kill-optimize":  # for a machine that this one is not: times would differ from run to run
        words = ["--for", "cpu-amx", "--data", str(rows), "--max-rows", "6"]
        return Command(lambda out: ["optimize", checkpoint, str(out), *words], _optimised, True, 12)
    many = vprm_demo.held_out_rows(ROWS, cache_dir=work / "rows")
    return Command(lambda out: ["score", str(bundle), "--input", str(many), "--output", str(out)], _scores, False, 3)


def run_kills(kind: str, seeds: range, work: Path, bundle: Path, found: Found) -> Counter[str]:
    """Kill the command once for each seed. Returns how many trials ended how."""
    command, outcomes = command_of(kind, work, bundle), Counter[str]()
    whole = work / "whole"
    began = time.monotonic()
    _run(command.words(whole))
    usual_s = time.monotonic() - began
    wanted = command.content(whole)
    output, since = work / "killed", 0
    for seed in seeds:
        try:
            ended = _killed(command.words(output), random.Random(f"{kind} {seed}").uniform(0.2, min(usual_s, LATEST_S)))
            since += not ended
            _check_half(output, command)
            if ended or since == command.kills:
                _check_whole(command, output, wanted)
                outcomes["resumed equal" if since else "ended before"] += 1
                since = 0
            else:
                outcomes["killed"] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            outcomes["wrong"] += 1
            found(seed, error)
            _remove(output)
            since = 0
    try:
        _check_whole(command, output, wanted)
        outcomes["resumed equal"] += 1
    except Exception as error:  # noqa: BLE001
        outcomes["wrong"] += 1
        found(seeds[-1], error)
    return outcomes


def _check_half(output: Path, command: Command) -> None:
    """After a kill: nothing that opens and is not whole."""
    if command.is_bundle and output.exists():
        Bundle.open(output, verify=True)


def _check_whole(command: Command, output: Path, wanted: dict[str, Any]) -> None:
    """Run to the end; the same bytes as undisturbed, and no leftovers. The output is removed."""
    if not output.exists() or _beside(output):
        _run(command.words(output), may_fail=output.exists())
    given = command.content(output)
    differing = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if differing:
        raise FindingError(f"not as undisturbed: {differing}")
    _remove(output)
    if _beside(output):
        raise FindingError(f"left behind: {_beside(output)}")


def _killed(words: list[str], after_s: float) -> bool:
    """Start the command and kill it after so many seconds; whether it ended by itself before."""
    with subprocess.Popen(_line(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    return True


def _run(words: list[str], may_fail: bool = False) -> int:
    done = subprocess.run(_line(words), capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    if "Traceback" in done.stderr or (done.returncode and not may_fail):
        raise FindingError(f"code {done.returncode}: {done.stderr[-500:]}")
    return done.returncode


def _line(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "vprm", *words]


def _beside(output: Path) -> list[str]:
    return [path.name for path in output.parent.iterdir() if output.name in path.name and path != output]


def _remove(output: Path) -> None:
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)
        output.with_name(f"{output.name}.run.json").unlink(missing_ok=True)
        _images(output).unlink(missing_ok=True)


def _images(scores: Path) -> Path:
    return scores.with_name(f"{scores.name}.images")


def _folder(folder: Path) -> dict[str, Any]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _file(file: Path) -> dict[str, Any]:
    return {"file": file.read_bytes()}


def _scores(file: Path) -> dict[str, Any]:
    beside = file.with_name(f"{file.name}.run.json")
    return {"lines": file.read_bytes(), "run": beside.read_bytes(), "images": _images(file).read_bytes()}


def _optimised(bundle: Path) -> dict[str, Any]:
    """All files; of the report all but times and the folder's own name."""
    found = _folder(bundle)
    report = json.loads(found.pop("report.json"))
    for one in report["recipes"]:
        one["speed"] = one["export_s"] = None
    del report["bundle"], report["commands"], report["not_measured"], report["took"]
    return {**found, **{f"report.json: {key}": value for key, value in report.items()}}


KILLS = ("kill-export", "kill-calibrate", "kill-optimize", "kill-score")
