"""The plan: what will be tried, on which rows, and what every stage will take. Shown before anything starts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vprm_benchmarks.quality.budget import BUDGETS, Budget
from vprm_export.architecture import Architecture
from vprm_export.checkpoint import Checkpoint
from vprm_optimize.engines import builder_for
from vprm_optimize.estimate import Estimator, ModelSize, Rates, RowCost, measure_rates, row_cost, usual_rates
from vprm_optimize.recipes import Goal, Groups, Recipe, recipe_groups
from vprm_optimize.selection import Selection, demo_selection, limited, split_by_question
from vprm_optimize.targets import Target, find_target
from vprm_runtime.bundle.manifest import TilingInfo
from vprm_runtime.errors import InputError
from vprm_runtime.machine import Machine, available_memory_bytes, free_disk_bytes, this_machine

SMALL_BYTES = 2_000_000_000
"""Of a float32 bundle: below it every layout is tried, and bundles of a group are all on disk at once."""
MOST_ROWS = 500
LEAST_ROWS = 16
REFERENCE_S = 3600.0
"""Without --max-rows, no more rows are judged than the reference takes this long for."""
_BATCH_BYTES = 8_000_000_000
_MOST_BATCH_ROWS = 400
_SPARE_BYTES = 1_000_000_000
COMPARISON_S = 150.0
"""Recipes of a group beside its first are for comparison: as many as are estimated to take no longer than this."""
BUILD = "build engines"
RESPONSES = {"latency": 8, "throughput": 32, "size": 8, "exact": 8}


@dataclass(frozen=True)
class Request:
    """What the user asked for. `data` is empty for the demo's rows; `max_rows` and `time_limit_s` None for none."""

    checkpoint: Path
    output: Path
    target: str = "this"
    data: tuple[Path, ...] = ()
    image_root: Path | None = None
    goal: Goal = "latency"
    budget: Budget = BUDGETS["int8"]
    budget_name: str = "int8"
    max_rows: int | None = None
    time_limit_s: float | None = None
    threads: int | None = None
    keep_all: bool = False
    system_message: str | None = None
    score_rule: str = "visualprm"


@dataclass(frozen=True)
class Stage:
    """A stage of the plan. `is_certain`: whether it runs whatever comes out of the stages before."""

    name: str
    seconds: float
    disk_bytes: int
    memory_bytes: int
    is_certain: bool = True


@dataclass(frozen=True)
class Plan:
    """What is done. Kept in the working directory, so that a resumed run does the same."""

    target: Target
    selection: Selection
    groups: Groups
    left_out: tuple[tuple[Recipe, str], ...]
    batch_rows: int
    judging_rows: int
    calibration_rows: int
    needs_reference: bool
    is_small: bool
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]
    rates: Rates

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All recipes in order."""
        return tuple(recipe for group in self.groups for recipe in group)

    def seconds(self, certain: bool) -> float:
        """Estimated seconds of the stages that are certain, or of all."""
        return sum(stage.seconds for stage in self.stages if stage.is_certain or not certain)

    def estimate(self, name: str) -> float | None:
        """Estimated seconds of a stage, or of several, separated by commas; None if they are not in the plan."""
        by_name = {stage.name: stage.seconds for stage in self.stages}
        found = [by_name.get(one) for one in name.split(", ")]
        return None if None in found else sum(one for one in found if one is not None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(document: dict[str, Any]) -> "Plan":
        """As `to_dict` made it."""
        return Plan(
            target=Target(**document["target"]),
            selection=Selection.from_dict(document["selection"]),
            groups=tuple(tuple(Recipe(**recipe) for recipe in group) for group in document["groups"]),
            left_out=tuple((Recipe(**recipe), str(why)) for recipe, why in document["left_out"]),
            batch_rows=document["batch_rows"],
            judging_rows=document["judging_rows"],
            calibration_rows=document["calibration_rows"],
            needs_reference=document["needs_reference"],
            is_small=document["is_small"],
            stages=tuple(Stage(**stage) for stage in document["stages"]),
            notes=tuple(document["notes"]),
            rates=Rates(**document["rates"]),
        )


def make_plan(request: Request, machine: Machine | None = None) -> Plan:
    """Look at checkpoint, rows and machine, and plan.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        InputError: the rows cannot be used, or disk or memory do not suffice.
    """
    machine = machine or this_machine()
    target = find_target(request.target, machine)
    checkpoint = Checkpoint.open(request.checkpoint)
    architecture = Architecture.from_config(checkpoint.config, checkpoint.path)
    model = ModelSize.of(architecture)
    is_small = model.float32_bytes < SMALL_BYTES
    vision = architecture.vision
    tiling = TilingInfo(vision.image_px, architecture.min_tiles, architecture.max_tiles, architecture.use_thumbnail)
    selection = split_by_question(request.data, request.image_root) if request.data else demo_selection()
    cost = row_cost(selection.judging, tiling, model.tokens_per_tile)
    folder = _existing(request.output.parent)
    try:
        rates = measure_rates(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}): make the bundle elsewhere") from error
    estimator = Estimator(model, rates, machine.cores)
    usual = replace(estimator, rates=usual_rates(machine.cores))  # the same plan, however busy the machine is
    batch = max(1, min(_MOST_BATCH_ROWS, int(_BATCH_BYTES // max(1, estimator.row_disk_bytes(cost)))))
    groups = recipe_groups(target, request.goal, model.layers, is_small)
    groups, left_out = _that_fit(groups, estimator, target)
    timed = usual if request.time_limit_s is None else estimator
    selection, notes = _enough_rows(request, selection, timed, cost, batch, groups)
    judging = sum(len(one.numbers) for one in selection.judging)
    groups, not_compared = _worth_comparing(groups, usual, cost, judging)
    calibrating = sum(len(one.numbers) for one in selection.calibration)
    needs_reference = any(recipe.precision != "fp32" for group in groups for recipe in group)
    plan = Plan(
        target=target,
        selection=selection,
        groups=groups,
        left_out=(*left_out, *not_compared),
        batch_rows=batch,
        judging_rows=judging,
        calibration_rows=calibrating,
        needs_reference=needs_reference,
        is_small=is_small,
        stages=(),
        notes=(*notes, *_target_notes(target, machine, request)),
        rates=rates,
    )
    plan = replace(plan, stages=tuple(_stages(plan, estimator, cost, request)))
    _check_room(plan, request)
    return plan


def _that_fit(groups: Groups, estimator: Estimator, target: Target) -> tuple[Groups, tuple[tuple[Recipe, str], ...]]:
    """Groups without recipes whose bundle cannot be opened in this machine's memory, and why those are left out."""
    free = available_memory_bytes()
    kept, left_out = [], []
    for group in groups:
        fitting = []
        for recipe in group:
            need = estimator.device_memory_bytes(recipe) if target.is_gpu else estimator.open_memory_bytes(recipe)
            room = target.gpu_memory_bytes if target.is_gpu else free
            if room is not None and need > room:
                whose = f"of memory, a {target.title} has {room / 1e9:.0f} GB"
                if not target.is_gpu:
                    whose = f"of memory, {room / 1e9:.0f} GB are available"
                left_out.append((recipe, f"needs about {need / 1e9:.0f} GB {whose}"))
            else:
                fitting.append(recipe)
        if fitting:
            kept.append(tuple(fitting))
    if not kept:
        raise InputError(f"no recipe fits: {left_out[0][0].name} {left_out[0][1]}")
    return tuple(kept), tuple(left_out)


def _worth_comparing(
    groups: Groups, estimator: Estimator, cost: RowCost, rows: int
) -> tuple[Groups, tuple[tuple[Recipe, str], ...]]:
    """Groups without recipes beyond the time for comparisons. Decided by estimates, so that a plan fixes it."""
    kept, left_out = [], []
    for group in groups:
        fitting, seconds = [group[0]], 0.0
        for recipe in group[1:]:
            seconds += estimator.judge_s(rows, cost, recipe)
            if seconds <= COMPARISON_S:
                fitting.append(recipe)
            else:
                left_out.append((recipe, "comparing it would take too long: --max-rows for fewer rows"))
        kept.append(tuple(fitting))
    return tuple(kept), tuple(left_out)


def _enough_rows(
    request: Request, selection: Selection, estimator: Estimator, cost: RowCost, batch: int, groups: Groups
) -> tuple[Selection, list[str]]:
    """Fewer rows to judge by if all would take too long."""
    total = sum(len(one.numbers) for one in selection.judging)
    rows = request.max_rows or min(total, MOST_ROWS)
    if request.max_rows is None:
        each = estimator.reference_s(batch, cost, batch) / batch
        each += estimator.judge_s(batch, cost, groups[0][0]) / batch
        allowed = REFERENCE_S if request.time_limit_s is None else 0.6 * request.time_limit_s
        rows = min(rows, max(LEAST_ROWS, int(allowed / each)))
    notes = []
    if selection.is_demo:
        notes.append(
            "no --data: the demo PRM's rows stand in for yours. Scales are set and the choice is made on small drawn "
            "figures; on your images and texts both may differ. Give rows of your own, or VisualProcessBench's"
        )
    if rows < total:
        notes.append(f"{rows} of {total} rows judge (--max-rows for more)")
    if (choices := cost.responses) <= 1.01:
        notes.append(f"rows have {choices:.0f} response each: choices among responses cannot be judged")
    return limited(selection, rows), notes


def _target_notes(target: Target, machine: Machine, request: Request) -> list[str]:
    notes = []
    if not target.runs_here:
        here = machine.gpus[0].name if machine.gpus else machine.cpu
        kind = "on the CPU, which computes the same graphs" if target.is_gpu else "by this CPU"
        notes.append(f"{target.title} is not here ({here}): accuracy is judged {kind}; speed is not measured")
    if target.is_gpu:
        builder = builder_for(target, request.goal)
        if builder.library is None:
            notes.append(f"no engine will be built: {builder.advice(request.output)}")
    return notes


def _stages(plan: Plan, estimator: Estimator, cost: RowCost, request: Request) -> Sequence[Stage]:
    floating = Recipe("fp32", "fp32")
    stages = []
    if plan.needs_reference:
        size = estimator.model.bundle_bytes(floating)
        stages.append(Stage("export fp32 (reference)", estimator.export_s(floating), size, 500 << 20))
        calibrated = [recipe for recipe in plan.recipes if recipe.is_calibrated]
        if calibrated:
            seconds = estimator.calibrate_s(plan.calibration_rows, cost)
            disk = plan.calibration_rows * estimator.row_disk_bytes(cost)
            stages.append(Stage("calibrate", seconds, disk, estimator.layer_memory_bytes(cost, sequence=True)))
        seconds = estimator.reference_s(plan.judging_rows, cost, plan.batch_rows)
        disk = min(plan.batch_rows, plan.judging_rows) * estimator.row_disk_bytes(cost)
        stages.append(Stage("reference scores", seconds, disk, estimator.layer_memory_bytes(cost, sequence=False)))
    responses = RESPONSES[request.goal]
    for number, group in enumerate(plan.groups):
        for recipe in group:
            size = estimator.model.bundle_bytes(recipe)
            memory = estimator.open_memory_bytes(recipe)
            certain = number == 0
            seconds = estimator.export_s(recipe)
            if recipe.keep_high:
                seconds += estimator.calibrate_s(plan.calibration_rows, cost, sensitivity=True)
            stages.append(Stage(f"export {recipe.name}", seconds, size, 500 << 20, certain))
            if recipe.precision != "fp32":
                seconds = estimator.judge_s(plan.judging_rows, cost, recipe)
                stages.append(Stage(f"judge {recipe.name}", seconds, 0, memory, certain))
            if plan.target.runs_here:
                seconds = estimator.time_s(recipe, responses)
                stages.append(Stage(f"time {recipe.name}", seconds, 0, memory, certain))
    if plan.target.is_gpu and builder_for(plan.target, request.goal).library is not None:
        stages.append(_build_stage(plan, estimator))
    return stages


def _build_stage(plan: Plan, estimator: Estimator) -> Stage:
    """An engine of the first recipe: of the bundle's size, and its weights are held more than once meanwhile."""
    size = estimator.model.bundle_bytes(plan.groups[0][0])
    return Stage(BUILD, estimator.build_s(size), size, int(2.5 * size) + (1 << 30))


def _check_room(plan: Plan, request: Request) -> None:
    """Raise InputError if disk or memory do not suffice, with the figures."""
    needed = disk_needed(plan) + _SPARE_BYTES
    free = free_disk_bytes(request.output.parent)
    if free is not None and free < needed:
        largest = max(plan.stages, key=lambda stage: stage.disk_bytes)
        raise InputError(
            f"{request.output.parent} has {free / 1e9:.0f} GB free, the run needs about {needed / 1e9:.0f} GB, most of "
            f"it, {largest.disk_bytes / 1e9:.0f} GB, for: {largest.name}. Make room or name a BUNDLE on another disk"
        )
    memory = available_memory_bytes()  # without an engine there is still a bundle, and the report says how to build one
    needs = [stage.memory_bytes for stage in plan.stages if stage.is_certain and stage.name != BUILD]
    peak = max(needs, default=0)
    if memory is not None and peak > memory:
        raise InputError(
            f"a stage needs about {peak / 1e9:.0f} GB of memory, {memory / 1e9:.0f} GB are available: "
            "end other programs, or give rows with smaller images or fewer tiles"
        )


def disk_needed(plan: Plan) -> int:
    """Bytes that lie on disk at the same time: the reference with its activations, and a group's bundles.

    Of large models the reference is given back before the first recipe is exported.
    """
    first = sum(stage.disk_bytes for stage in plan.stages if "reference" in stage.name or stage.name == "calibrate")
    by_name = {stage.name: stage.disk_bytes for stage in plan.stages}
    engine = by_name.get(BUILD, 0)
    groups = [sum(by_name[f"export {recipe.name}"] for recipe in group) + engine for group in plan.groups]
    return first + max(groups) if plan.is_small else max(first, max(groups))


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
