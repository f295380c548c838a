"""Stages: jobs in processes of their own, and a journal of what every stage took."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vprm_runtime.errors as errors
from vprm_optimize.child import whole_lines
from vprm_optimize.meter import Meter
from vprm_runtime.errors import EngineError

Say = Callable[[str, int, int], None]  # what, done, in all


class Journal:
    """A file with a line when a stage begins, and one with what it took when it ends."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @contextmanager
    def stage(self, name: str, estimated_s: float | None) -> Iterator[Meter]:
        """Measure a stage; if it raises it has no second line."""
        self._append({"began": name})
        with Meter() as meter:
            yield meter
        self._append({"name": name, "estimated_s": estimated_s, **asdict(meter.usage)})

    def stages(self) -> list[dict[str, Any]]:
        """What each stage took that ended; `began` is how often: more than once if it was interrupted, and then the
        figures are those of the last time."""
        begun: dict[str, int] = {}
        found: dict[str, dict[str, Any]] = {}
        for line in whole_lines(self._file):
            if "began" in line:
                begun[line["began"]] = begun.get(line["began"], 0) + 1
            else:
                found[line["name"]] = {**line, "began": begun[line["name"]]}
        return list(found.values())

    def _append(self, document: dict[str, Any]) -> None:
        whole_lines(self._file)  # cuts what a kill left of a line
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")


def run_job(
    job: dict[str, Any], work: Path, descriptors: Sequence[int], say: Say, label: str | None, meter: Meter
) -> None:
    """Run a job of `vprm_optimize.child` in a process of its own, which inherits `descriptors`.

    Raises what it raised, or EngineError if it crashed.
    """
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json", dir=work, encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said_file,
    ):
        json.dump(job, file)
        file.flush()
        command = [sys.executable, "-m", "vprm_optimize.child", file.name]
        last: dict[str, Any] = {}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said_file, text=True, pass_fds=tuple(descriptors)
        ) as process:
            meter.watched = process.pid
            try:
                for line in process.stdout or ():
                    last = json.loads(line)
                    if "what" in last:
                        say(label or last["what"], last["done"], last["total"])
            except BaseException:
                process.terminate()
                raise
        code = process.returncode
        said_file.seek(0)
        said = said_file.read()
    if code == 0:
        return
    if "error" in last:
        kind = getattr(errors, last["kind"], EngineError)
        raise EngineError(last["error"]) if kind is errors.MissingExtraError else kind(last["error"])
    raise EngineError(_why(code, said, label or job["kind"]))


def _why(code: int, said: str, what: str) -> str:
    if code == -9:
        return f"{what}: the process was killed, most likely because memory ran out"
    if code < 0:
        return f"{what}: the engine crashed (signal {-code})"
    return f"{what}: ended with code {code}: {' '.join(said.split())[-300:]}"
