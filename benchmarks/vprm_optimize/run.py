"""The run: stage after stage, each kept when it is done. A run that was interrupted goes on where it was.

State lies in `OUT.parts`, beside the bundle:

    plan.json                 what was asked for, and the plan
    fp32/                     the floating-point reference; given back once it is no longer needed
    calibration.safetensors
    reference.jsonl           a line for each row
    RECIPE/                   a recipe's bundle; given back once it has lost
    RECIPE.jsonl, .json       its scores; its times and what was found out about it
    stages.jsonl              what each stage took
    finished.json             the manifest of the bundle that got its name
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vprm_export import export_bundle
from vprm_optimize.child import Say, say_nothing, whole_lines
from vprm_optimize.decide import Outcome, choose, compared_rows, judged
from vprm_optimize.jobs import Journal, run_job
from vprm_optimize.plan import BUILD, RESPONSES, Plan, Request, make_plan
from vprm_optimize.recipes import Recipe, export_options
from vprm_optimize.taking_up import (
    PLAN_NAME,
    asked_of,
    check_request,
    check_still_free,
    locked,
    stored_plan,
)
from vprm_runtime.engines.cuda.tensorrt.engine_file import ENGINES_FOLDER, EngineInfo, engine_name
from vprm_runtime.errors import EngineError, InputError, UnsupportedError, VprmError
from vprm_runtime.files import claim_parts, clear_parts, parts_folder, read_small, write_whole
from vprm_runtime.machine import available_memory_bytes

_COMMAND = "optimize"
_FINISHED = "finished.json"


@contextmanager
def opened_run(request: Request, say: Say = say_nothing) -> Iterator["Run"]:
    """The run that makes `request.output`: begun, or taken up again. One process at a time.

    Raises InputError if another process works on it, or one with other options began it, what `check_request` and
    `make_plan` raise.
    """
    check_request(request)
    asked, work = asked_of(request), parts_folder(request.output)
    new_folders = [folder for folder in work.absolute().parents if not folder.exists()]
    claim_parts(work, _COMMAND)
    with locked(work) as descriptor:
        try:
            plan = stored_plan(work, request, asked)
            if plan is None:
                check_still_free(request.output)
                plan = make_plan(request)
                _write_json(work / PLAN_NAME, {"asked": asked, "plan": plan.to_dict()})
        finally:
            if not os.path.lexists(work / PLAN_NAME):  # there is nothing to go on with
                clear_parts(work, _COMMAND)
                for folder in new_folders:
                    with suppress(OSError):
                        folder.rmdir()
        yield Run(request, plan, work, descriptor, say, asked)


class Run:
    """One run. Made by `opened_run`."""

    def __init__(self, request: Request, plan: Plan, work: Path, lock: int, say: Say, asked: dict[str, Any]) -> None:
        self.request, self.plan, self.work, self._asked = request, plan, work, asked
        self._lock_descriptor, self._say = lock, say
        self.outcomes: list[Outcome] = []
        self.engine: dict[str, Any] | None = None  # of a GPU: what was built, or why nothing was
        self.journal = Journal(work / "stages.jsonl")

    def bundle(self, recipe: Recipe) -> Path:
        """Where a recipe's bundle lies while it is needed."""
        return self.work / recipe.name

    @property
    def calibration(self) -> Path:
        """The calibration's file."""
        return self.work / "calibration.safetensors"

    def run(self) -> Outcome:
        """Do all stages; the chosen recipe, whose bundle is in `bundle(outcome.recipe)`.

        Raises InputError if no recipe held the budget, and what stages raise.
        """
        if self.plan.needs_reference:
            self._reference()
        spent = False
        for group in self.plan.groups:
            if spent or any(outcome.survived for outcome in self.outcomes):
                why = (
                    "the time limit was reached" if spent else "a recipe that is expected to be faster held the budget"
                )
                self.outcomes += [Outcome(recipe, "not tried", why) for recipe in group]
                continue
            self._try_group(group)
            spent = self._is_late() and any(outcome.survived for outcome in self.outcomes)
        self.outcomes += [Outcome(recipe, "not tried", why) for recipe, why in self.plan.left_out]
        best = choose(self.outcomes, self.request.goal)
        if not self.bundle(best.recipe).exists():  # given back when another one looked better
            self._export(best)
        if self.plan.target.is_gpu:
            self._build(best)
        return best

    def finish(self, manifest_text: str, extra_files: dict[str, str], best: Outcome) -> None:
        """Give the bundle its manifest, its reports and its name; give the working directory back.

        Raises InputError if checkpoint or rows changed since the run began, or the name is taken.
        """
        now = asked_of(self.request)
        if now != self._asked:
            changed = ", ".join(key for key in now if now[key] != self._asked[key])
            raise InputError(f"{changed}: changed since the run began: remove {self.work} to begin anew")
        source, target = self.bundle(best.recipe), self.request.output
        if os.path.lexists(target):
            raise InputError(f"{target} was made by another process: move it away, and the same command ends this run")
        for name, text in {**extra_files, "manifest.json": manifest_text}.items():
            _write_text(source / name, text)
        others = [outcome.recipe for outcome in self.outcomes if outcome is not best and outcome.survived]
        if self.request.keep_all:
            for recipe in others:
                if self.bundle(recipe).exists():
                    (source / "others").mkdir(exist_ok=True)
                    shutil.rmtree(source / "others" / recipe.name, ignore_errors=True)  # of a run killed just here
                    self.bundle(recipe).rename(source / "others" / recipe.name)
        _write_text(self.work / _FINISHED, manifest_text)
        source.rename(target)
        self.clear()

    def has_finished(self) -> bool:
        """Whether this run made what is at its bundle's name. Raises InputError if something else is there."""
        target = self.request.output
        if not os.path.lexists(target):
            return False
        with suppress(OSError):
            if read_small(self.work / _FINISHED, 1 << 26) == read_small(target / "manifest.json", 1 << 26):
                return True
        raise InputError(
            f"{target} exists already, and the interrupted run in {self.work} did not make it: move it away to go on "
            f"with that run, or remove {self.work} and choose another name"
        )

    def clear(self) -> None:
        """Give the working directory back, its plan late: a run that is ended meanwhile goes on with this."""
        for entry in sorted(self.work.iterdir(), key=lambda entry: entry.name == PLAN_NAME):
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name in ("lock", _FINISHED) or entry.name.startswith("."):
                continue
            else:
                entry.unlink()
        (self.work / _FINISHED).unlink(missing_ok=True)
        clear_parts(self.work, _COMMAND)

    def _is_late(self) -> bool:
        limit = self.request.time_limit_s
        return limit is not None and self.journal.spent_s() > limit

    def _reference(self) -> None:
        """The floating-point bundle, the calibration and the reference's scores."""
        scores, done = self.work / "reference.jsonl", self.work / "reference.done"
        needs_calibration = any(recipe.is_calibrated for recipe in self.plan.recipes)
        if not done.exists() or (needs_calibration and not self.calibration.exists()):
            self._export_to(Recipe("fp32", "fp32"), self.work / "fp32", "export fp32 (reference)")
        if needs_calibration and not self.calibration.exists():
            self._calibrate(self.calibration, ())
        if not done.exists():
            job = {"kind": "reference", "output": str(scores), "work": str(self.work / "rows"), **self._common()}
            job |= {"batch_rows": self.plan.batch_rows, "bundle": str(self.work / "fp32")}
            self._child("reference scores", job)
            _write_text(done, "")
        if not self.plan.is_small:
            shutil.rmtree(self.work / "fp32", ignore_errors=True)

    def _calibrate(self, output: Path, sensitivity: Sequence[str]) -> None:
        layout = next(recipe.layout for recipe in self.plan.recipes if recipe.is_calibrated)
        job = {"kind": "calibrate", "bundle": str(self.work / "fp32"), "output": str(output), "layout": layout}
        name = "sensitivities" if sensitivity else "calibrate"
        self._child(name, {**job, "sensitivity": list(sensitivity), **self._common()})

    def _common(self) -> dict[str, Any]:
        return {"selection": self.plan.selection.to_dict(), "threads": self.request.threads}

    def _try_group(self, group: Sequence[Recipe]) -> None:
        """Export, judge and time a group; losers' bundles are given back."""
        tried: list[Outcome] = []
        for recipe in group:
            outcome = Outcome(recipe, "not tried", "")
            self.outcomes.append(outcome)
            if self._is_late() and any(other.survived for other in tried):
                outcome.reason = "the time limit was reached, and a recipe before it held the budget"
                continue
            self._try(outcome)
            tried.append(outcome)
            if not outcome.survived:
                shutil.rmtree(self.bundle(recipe), ignore_errors=True)
        if self.plan.target.runs_here:
            self._time([outcome for outcome in tried if outcome.survived])

    def _try(self, outcome: Outcome) -> None:
        """Export and judge one recipe; what fails is in the outcome."""
        recipe = outcome.recipe
        try:
            self._export(outcome)
            if recipe.precision == "fp32":
                outcome.state, outcome.reason = "held", "floating point: the reference itself"
                return
            output = self.work / f"{recipe.name}.jsonl"
            device = "cpu" if recipe.device == "auto" and not self.plan.target.runs_here else recipe.device
            name = f"judge {recipe.name}"
            job = {"kind": "judge", "bundle": str(self.bundle(recipe)), "device": device, "output": str(output)}
            self._child(name, {**job, "label": name, **self._common()})
            reference = whole_lines(self.work / "reference.jsonl")
            rows, left_out = compared_rows(self.plan.selection, reference, whole_lines(output))
            outcome.quality = judged(rows, left_out, self.request.budget)
        except (EngineError, UnsupportedError) as error:  # others, of the disk say, are not the recipe's fault
            outcome.state, outcome.reason = "failed", str(error)
            return
        failed = [check for check in outcome.quality["checks"] if not check["passed"]]
        outcome.state = "rejected" if failed else "held"
        outcome.reason = "; ".join(f"{c['name']} {c['value']:.4g}, allowed {c['allowed']:.4g}" for c in failed)

    def _export(self, outcome: Outcome) -> None:
        recipe, bundle = outcome.recipe, self.bundle(outcome.recipe)
        if recipe.keep_high:
            self._sensitivity(recipe)
        started = time.monotonic()
        if not bundle.exists():
            self._export_to(recipe, bundle, f"export {recipe.name}")
            outcome.export_s = time.monotonic() - started
            _write_json(self.work / f"{recipe.name}.export.json", outcome.export_s)
        elif (self.work / f"{recipe.name}.export.json").exists():
            outcome.export_s = _read_json(self.work / f"{recipe.name}.export.json")
        outcome.size_bytes = sum(file.stat().st_size for file in bundle.iterdir() if file.is_file())

    def _sensitivity(self, recipe: Recipe) -> None:
        """A calibration that has each Linear's sensitivity too; made when a recipe is reached that wants it."""
        detailed = self.work / f"calibration-{recipe.precision}.safetensors"
        if not detailed.exists():
            self._export_to(Recipe("fp32", "fp32"), self.work / "fp32", "export fp32 (reference)")
            self._calibrate(detailed, (recipe.precision,))

    def _export_to(self, recipe: Recipe, target: Path, what: str) -> None:
        if target.exists():
            return
        for leftover in self.work.glob(f".{target.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        calibration = (
            self.work / f"calibration-{recipe.precision}.safetensors" if recipe.keep_high else self.calibration
        )
        options = replace(
            export_options(recipe, calibration),
            system_message=self.request.system_message,
            score_rule=self.request.score_rule,
        )

        def progress(done: int, total: int) -> None:
            self._say(what, done, total, "bytes")

        with self.journal.stage(what, self.plan.estimate(what)):
            export_bundle(self.request.checkpoint, target, options, progress)

    def _time(self, outcomes: Sequence[Outcome]) -> None:
        """Time bundles, all in turns if they fit in memory together; after a crash one by one."""
        todo = []
        for outcome in outcomes:
            file = self.work / f"{outcome.recipe.name}.speed.json"
            if file.exists():
                outcome.speed = _read_json(file)
            else:
                todo.append(outcome)
        free = available_memory_bytes() or 0
        if len(todo) > 1 and 2 * sum(outcome.size_bytes or 0 for outcome in todo) < free:
            try:
                self._time_together(todo)
                return
            except EngineError:
                pass  # one of them crashes: find out which
        for outcome in todo:
            try:
                self._time_together([outcome])
            except EngineError as error:
                outcome.state, outcome.reason = "failed", f"timing it: {error}"

    def _time_together(self, outcomes: Sequence[Outcome]) -> None:
        output = self.work / "speed.json"
        bundles = {o.recipe.name: [str(self.bundle(o.recipe)), o.recipe.device] for o in outcomes}
        job = {"kind": "time", "bundles": bundles, "output": str(output), "threads": self.request.threads}
        name = ", ".join(f"time {outcome.recipe.name}" for outcome in outcomes)
        self._child(name, {**job, "responses": RESPONSES[self.request.goal]})
        found = _read_json(output)
        for outcome in outcomes:
            outcome.speed = found[outcome.recipe.name]
            _write_json(self.work / f"{outcome.recipe.name}.speed.json", outcome.speed)
        output.unlink()

    def _build(self, best: Outcome) -> None:
        """Engines, if a builder for the target is here; what could not be built is in `engine`."""
        from vprm_optimize.engines import builder_for

        builder, bundle = builder_for(self.plan.target, self.request.goal), self.bundle(best.recipe)
        command = builder.command(self.request.output)
        if builder.library is None:
            self.engine = {"built": False, "why": builder.advice(self.request.output), "command": command}
            return
        folder = bundle / ENGINES_FOLDER / engine_name(builder.library, self.plan.target.capability or 0)
        job = {"kind": "build", "bundle": str(bundle), "library": builder.library, "profile": builder.profile}
        try:
            if not folder.exists():  # it gets its name when it is whole
                self._child(BUILD, {**job, "capability": self.plan.target.capability})
            info = EngineInfo.read(folder)
        except InputError:
            raise
        except VprmError as error:
            self.engine = {"built": False, "why": f"building it failed: {error}", "command": command}
            return
        graphs = (info.vision, info.llm)
        self.engine = {
            "built": True,
            "library": f"{info.library} {info.library_version}",
            "folder": f"{ENGINES_FOLDER}/{info.name}",
            "size_bytes": sum(graph.size_bytes for graph in graphs),
            "problems": [problem for graph in graphs for problem in graph.check.problems],
            "command": command,
        }

    def _child(self, name: str, job: dict[str, Any]) -> None:
        """Run a job, as stage `name`, in a process of its own. Raises its error, or EngineError if it crashed."""
        with self.journal.stage(name, self.plan.estimate(name)) as meter:
            run_job(job, self.work, (self._lock_descriptor,), self._say, meter)


def _write_json(path: Path, document: Any) -> None:
    _write_text(path, json.dumps(document, indent=1))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode("utf-8"))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
