"""What lets a run be taken up again: what it was asked for, its plan, and a lock."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vprm_export.score_rules import find_score_rule
from vprm_optimize.plan import Plan, Request
from vprm_runtime.datasets import open_rows
from vprm_runtime.errors import InputError, quoted
from vprm_runtime.files import parts_folder, read_small
from vprm_runtime.strict_json import loads

PLAN_NAME = "plan.json"
_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja")  # of a checkpoint's files that decide scores


def check_request(request: Request) -> None:
    """What can be told before anything is read. Raises InputError if the bundle cannot be made or the rule is none."""
    output = request.output
    if os.path.lexists(output) and not os.path.lexists(parts_folder(output)):
        raise InputError(_taken(output))
    find_score_rule(request.score_rule)


def _taken(output: Path) -> str:
    return f"{output} exists already: remove it or choose another name"


def check_still_free(output: Path) -> None:
    """Raise InputError if the bundle was made while this process waited for another one that worked on it."""
    if os.path.lexists(output):
        raise InputError(_taken(output))


def stored_plan(work: Path, request: Request, asked: dict[str, Any]) -> Plan | None:
    """The plan of the interrupted run in `work`; None if there is none. Raises InputError if it was another's.

    Rows are read where `request` says they are now.
    """
    try:
        stored = loads(read_small(work / PLAN_NAME))
        before, plan = dict(stored["asked"]), Plan.from_dict(stored["plan"])
        if before == asked:
            return replace(plan, selection=plan.selection.moved(request.data, request.image_root))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{work / PLAN_NAME} is damaged ({quoted(error)}): remove {work} to begin anew") from error
    changed = ", ".join(key for key in asked if before.get(key) != asked[key])
    raise InputError(
        f"{work} holds an interrupted run with another {changed}: run it to its end with the same options, or "
        "remove that folder to begin anew"
    )


def asked_of(request: Request) -> dict[str, Any]:
    """What makes two runs the same: options, and what checkpoint and rows are, not what they are called.

    The budget is not among them: scores do not depend on it, so a run that ended without a bundle goes on with another.
    """
    parts = (file for file in sorted(request.checkpoint.glob("*")) if file.suffix in _SUFFIXES and file.is_file())
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in parts]
    document = {
        "vprm": version("vprm"),
        "checkpoint": files,
        "rows": [open_rows(file, request.image_root).fingerprint for file in request.data],
        "target": request.target,
        "goal": request.goal,
        "max_rows": request.max_rows,
        "threads": request.threads,
        "keep_all": request.keep_all,
        "system_message": request.system_message,
        "score_rule": str(find_score_rule(request.score_rule)),  # of a file what it says
    }
    normalised: dict[str, Any] = json.loads(json.dumps(document))
    return normalised


@contextmanager
def locked(work: Path) -> Iterator[int]:
    """Held by this process and its children; a child of a killed run is waited for."""
    with (work / "lock").open("w") as file:
        for attempt in range(50):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if attempt == 49:
                    raise InputError(f"another process works in {work}: wait for it, or end it") from None
                time.sleep(0.2)
        if not (work / "lock").exists() or not os.path.samestat(os.fstat(file.fileno()), (work / "lock").stat()):
            raise InputError(f"another process has just ended its work in {work}: start again")
        yield file.fileno()
