"""Stages: jobs in processes of their own, and a journal of what every stage took."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vprm_runtime.errors as errors
from vprm_optimize.child import Say, whole_lines
from vprm_optimize.meter import Meter
from vprm_runtime.errors import EngineError


class Journal:
    """A file with a line when a stage begins, and one with what it took when it ends.

    While a stage runs, the file's time of change is kept at the present: so it is known how long one ran that a kill
    ended, and the time of all runs together can be limited.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        if file.exists():
            changed = file.stat().st_mtime
            last = (whole_lines(file) or [{}])[-1]
            if "at" in last:
                self._append({"interrupted": last["began"], "seconds": max(0.0, changed - last["at"])})

    @contextmanager
    def stage(self, name: str, estimated_s: float | None) -> Iterator[Meter]:
        """Measure a stage; if it raises, its line has nothing but the time."""
        started = time.time()
        self._append({"began": name, "at": started})
        try:
            with Meter(self._beat) as meter:
                yield meter
        except BaseException:
            with suppress(OSError):  # no room on the disk, perhaps; that is said already
                self._append({"interrupted": name, "seconds": max(0.0, time.time() - started)})
            raise
        self._append({"name": name, "estimated_s": estimated_s, **asdict(meter.usage)})

    def stages(self) -> list[dict[str, Any]]:
        """What each stage took that ended; `began` is how often: more than once if it was interrupted, and then the
        figures are those of the last time."""
        begun: dict[str, int] = {}
        found: dict[str, dict[str, Any]] = {}
        for line in whole_lines(self._file):
            if "began" in line:
                begun[line["began"]] = begun.get(line["began"], 0) + 1
            elif "name" in line:
                found[line["name"]] = {**line, "began": begun[line["name"]]}
        return list(found.values())

    def spent_s(self) -> float:
        """Seconds of all stages, of interrupted ones too, in this run and those that it goes on with."""
        return sum(float(line.get("seconds", 0.0)) for line in whole_lines(self._file))

    def _beat(self) -> None:
        with suppress(OSError):
            os.utime(self._file)

    def _append(self, document: dict[str, Any]) -> None:
        whole_lines(self._file)  # cuts what a kill left of a line
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")


def run_job(job: dict[str, Any], work: Path, descriptors: Sequence[int], say: Say, meter: Meter) -> None:
    """Run a job of `vprm_optimize.child` in a process of its own, which inherits `descriptors`.

    Its temporary files lie in `work`: if it is killed they go with that. Raises what it raised, or EngineError if it
    crashed.
    """
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json", dir=work, encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", dir=work) as said_file,
    ):
        json.dump(job, file)
        file.flush()
        # -P: a module in the user's folder is not taken for one of ours or of Python's
        command = [sys.executable, "-P", "-m", "vprm_optimize.child", file.name]
        last: dict[str, Any] = {}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said_file, text=True,
            pass_fds=tuple(descriptors), env={**os.environ, "TMPDIR": str(work.absolute())},
        ) as process:  # fmt: skip
            meter.watched = process.pid
            try:
                for line in process.stdout or ():
                    last = json.loads(line)
                    if "what" in last:
                        say(last["what"], last["done"], last["total"], last["unit"])
            except BaseException:
                process.terminate()
                raise
        code = process.returncode
        said_file.seek(0)
        said = said_file.read()
    if code == 0:
        return
    if "error" in last:
        if last["kind"] == "OSError":
            raise OSError(last["errno"], last["error"], last["file"])
        kind = getattr(errors, last["kind"], EngineError)
        raise EngineError(last["error"]) if kind is errors.MissingExtraError else kind(last["error"])
    raise EngineError(_why(code, said, job.get("label") or job["kind"]))


def _why(code: int, said: str, what: str) -> str:
    if code == -9:
        return f"{what}: the process was killed, most likely because memory ran out"
    if code < 0:
        return f"{what}: the engine crashed (signal {-code})"
    return f"{what}: ended with code {code}: {' '.join(said.split())[-300:]}"
