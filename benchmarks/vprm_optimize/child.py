"""A stage's job, run in a process of its own: `python -m vprm_optimize.child JOB.json`.

A crash of an engine, or the system's killing it for memory, then ends a recipe and not the whole run, and all memory
of a stage is given back. Progress is a line of JSON on stdout: {"what", "done", "total", "unit"}; an error of this
package, or of the system ("errno" and "file" then), is the last line, {"error", "kind"}, with exit code 2. Stdin is a
pipe that nothing comes through: it ends when the process that started the job does, and the job with it.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from vprm_optimize.selection import ChosenRows, RowSet, Selection
from vprm_runtime.errors import InputError, VprmError

Job = dict[str, Any]


class Say(Protocol):
    """Says how much of a piece of work is done, and what it is counted in ("bytes": shown as sizes)."""

    def __call__(self, what: str, done: int, total: int, unit: str = "steps", /) -> None:
        """Say it."""
        ...


def say_nothing(what: str, done: int, total: int, unit: str = "steps", /) -> None:
    """A `Say` for those who want none."""


def main() -> int:
    """Run the job that a file describes."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    try:
        _JOBS[job["kind"]](job, _say)
    except VprmError as error:
        message = " ".join([str(error), *getattr(error, "__notes__", [])])
        _line({"error": message, "kind": type(error).__name__})
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 130
    except MemoryError:
        _line({"error": "there is not enough memory", "kind": "EngineError"})
        return 2
    except OSError as error:  # no room on the disk, say: the run's fault, not the recipe's
        if error.errno is None:
            raise  # of a library
        file = None if error.filename is None else str(error.filename)
        _line({"error": error.strerror, "kind": "OSError", "errno": error.errno, "file": file})
        return 2
    return 0


def _end_with_starter() -> None:
    """End this process, whatever it does, when the one that started it is gone: its lock is free then."""
    while os.read(0, 1):
        pass
    os._exit(130)


def _say(what: str, done: int, total: int, unit: str = "steps", /) -> None:
    _line({"what": what, "done": done, "total": total, "unit": unit})


def _line(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _calibrate(job: Job, say: Say) -> None:
    """Keys: bundle, selection, output, sensitivity (precisions), layout."""
    from vprm_calibration.calibrate import CalibrationOptions, calibrate
    from vprm_calibration.sequences import SequenceLimits

    rows = ChosenRows(Selection.from_dict(job["selection"]).calibration)
    options = CalibrationOptions(SequenceLimits(rows.total), tuple(job["sensitivity"]), job["layout"])

    def progress(phase: str, done: int, total: int) -> None:
        is_rows = phase == "sequences"
        say("calibrate, reading rows" if is_rows else "calibrate", done, total, "sequences" if is_rows else "layers")

    calibrate(Path(job["bundle"]), rows, Path(job["output"]), options, progress)


def _reference(job: Job, say: Say) -> None:
    """Keys: bundle, selection, output, work, batch_rows, threads. Appends to `output` what it lacks."""
    from vprm_optimize import reference
    from vprm_runtime.bundle.bundle import Bundle
    from vprm_runtime.scorer import StepScorer

    bundle, work, output = Bundle.open(job["bundle"]), Path(job["work"]), Path(job["output"])
    sets = Selection.from_dict(job["selection"]).judging
    total, done = sum(len(one.numbers) for one in sets), len(whole_lines(output))
    while done < total:
        work.mkdir(exist_ok=True)
        batch = list(_window(sets, done, job["batch_rows"]))
        todo = []
        recorder = None
        for number, row in batch:
            name = f"row-{number:06d}"
            if not (work / f"{name}.done").exists():
                recorder = recorder or reference.Recorder(bundle, job["threads"])
                recorder.steps.clear()
                _, error = _scored(StepScorer.open(bundle, engine=recorder), row)
                if error is None:
                    reference.store_steps(work / f"{name}.steps.npz", recorder.steps)
                (work / f"{name}.done").write_text(error or "", "utf-8")
            if not (work / f"{name}.done").read_text("utf-8"):
                todo.append(name)
            say("reference scores, reading rows", number + 1, total, "rows")
        del recorder
        reference.run_layers(bundle, work, todo, lambda layer, layers: say("reference scores", layer, layers, "layers"))
        for number, row in batch:
            name = f"row-{number:06d}"
            error = (work / f"{name}.done").read_text("utf-8") or None
            scores = None
            if error is None:
                player = reference.Player(bundle.manifest, reference.logits_of(work, name))
                scores, error = _scored(StepScorer.open(bundle, engine=player), row)
            _append(output, {"row": number, "scores": scores, "error": error})
        reference.forget(work)
        done += len(batch)
        say("reference scores", done, total, "rows")


def _judge(job: Job, say: Say) -> None:
    """Keys: bundle, device, selection, output, threads, label. Appends to `output` what it lacks."""
    from vprm_runtime.scorer import StepScorer

    output = Path(job["output"])
    sets = Selection.from_dict(job["selection"]).judging
    total, done = sum(len(one.numbers) for one in sets), len(whole_lines(output))
    if done == total:
        return
    scorer = StepScorer.open(job["bundle"], job["device"], threads=job["threads"])
    for number, row in _window(sets, done, total):
        scores, error = _scored(scorer, row)
        _append(output, {"row": number, "scores": scores, "error": error})
        say(job["label"], number + 1, total, "rows")


def _time(job: Job, say: Say) -> None:
    """Keys: bundles {name: [path, device]}, output, threads, responses."""
    from vprm_benchmarks.speed.bundle_times import time_bundles

    bundles = {name: (Path(path), str(device)) for name, (path, device) in job["bundles"].items()}
    found = time_bundles(
        bundles, job["threads"], job["responses"], lambda what, done, total: say(what, done, total, "rounds")
    )
    Path(job["output"]).write_text(json.dumps(found), "utf-8")


def _build(job: Job, say: Say) -> None:
    """Keys: bundle, library, capability, profile."""
    from vprm_compile.build import build_engines
    from vprm_compile.capability import BuildOptions
    from vprm_runtime.bundle.bundle import Bundle

    options = BuildOptions(job["library"], job["capability"], job["profile"])
    build_engines(
        Bundle.open(job["bundle"]), options, lambda phase, done, total: say(f"build engines, {phase}", done, total)
    )


_JOBS: dict[str, Callable[[Job, Say], None]] = {
    "calibrate": _calibrate,
    "reference": _reference,
    "judge": _judge,
    "time": _time,
    "build": _build,
}


def _window(sets: tuple[RowSet, ...], start: int, count: int) -> Iterator[tuple[int, Any]]:
    """Rows from `start` on, with their numbers among all."""
    for number, row in enumerate(ChosenRows(sets)):
        if start <= number < start + count:
            yield number, row


def _scored(scorer: Any, row: Any) -> tuple[list[list[float]] | None, str | None]:
    """A row's step scores, or why it has none."""
    from vprm_benchmarks.quality.compare import row_scores
    from vprm_runtime.datasets import BadRow

    if isinstance(row, BadRow):
        return None, row.error
    try:
        return [list(steps) for steps in row_scores(scorer, row)], None
    except InputError as error:
        return None, str(error)


def _append(file: Path, document: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(document) + "\n")


def whole_lines(file: Path) -> list[dict[str, Any]]:
    """Documents of a file's whole lines; what an interruption left of another line is cut off."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) != len(content):
        file.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
