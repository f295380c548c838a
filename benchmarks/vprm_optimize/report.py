"""What was found out: report.json, the summary in the manifest, and lines for a terminal."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vprm_benchmarks.speed.bundle_times import STEP_TOKENS, STEPS, TILES
from vprm_export.checkpoint import Checkpoint
from vprm_optimize.decide import Outcome
from vprm_optimize.plan import RESPONSES, Plan, Request
from vprm_optimize.split import numbers_of
from vprm_runtime.bundle.manifest import Manifest, Optimisation
from vprm_runtime.bundle.names import hub_id, path_text
from vprm_runtime.machine import this_machine

REPORT_NAME, PAGE_NAME = "report.json", "report.html"
_ALLOWED = ("--max-mean-error", "--max-f1-change", "--max-flips")  # of `vprm quality`, as Budget has them
_FIGURES = {"mean_error": "mean step-score error", "f1_change": "macro F1 change", "flips_outside": "choice flips"}


def report_of(
    request: Request,
    plan: Plan,
    outcomes: Sequence[Outcome],
    best: Outcome | None,
    name: str,
    stages: Sequence[dict[str, Any]],
    engine: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The document of report.json and of `--json`. `stages`: what each took, as `Journal.stages` has it; `engine`: what
    became of it, as in `Run.engine`, None for CPUs."""
    selection = plan.selection
    return {
        "vprm": version("vprm"),
        "model": name,
        "bundle": path_text(request.output),
        "machine": asdict(this_machine()),
        "made_for": {**asdict(plan.target), "runs_here": plan.target.runs_here},
        "goal": request.goal,
        "budget": {"name": path_text(request.budget_name), **asdict(request.budget)},
        "rows": {
            "demo": selection.is_demo,
            "files": [path_text(file) for file in request.data or selection.files],
            "calibration": plan.calibration_rows,
            "judging": plan.judging_rows,
            "split": "by question and images",
            "image_root": None if request.image_root is None or selection.is_demo else path_text(request.image_root),
            "numbers": numbers_of(selection),
        },
        "request_timed": {
            "tiles": TILES, "responses": RESPONSES[request.goal], "steps": STEPS, "tokens_per_step": STEP_TOKENS,
        },
        "chosen": None if best is None else best.recipe.name,
        "reason": "no recipe held the budget" if best is None else best.reason,
        "device": None if best is None else best.recipe.device,
        "recipes": [_recipe(outcome) for outcome in outcomes],
        "took": {"rates": asdict(plan.rates), "stages": list(stages)},
        "notes": list(plan.notes),
        "engine": engine,
        "not_measured": [] if best is None else not_measured(request, plan, engine),
        "commands": [] if best is None else commands(request, best, engine),
    }  # fmt: skip


def _recipe(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.recipe.name,
        **asdict(outcome.recipe),
        "calibrated": outcome.recipe.is_calibrated,
        "state": outcome.state,
        "reason": outcome.reason,
        "size_bytes": outcome.size_bytes,
        "export_s": outcome.export_s,
        "quality": outcome.quality,
        "speed": outcome.speed,
    }


def commands(request: Request, best: Outcome, engine: dict[str, Any] | None) -> list[str]:
    """Commands that make the chosen bundle stage by stage, judge it and use it."""
    recipe, output = best.recipe, shlex.quote(path_text(request.output))
    checkpoint = reference = shlex.quote(_source(request.checkpoint))
    threads = [] if request.threads is None else ["--threads", str(request.threads)]
    device = [] if recipe.device in ("cpu", "auto") else ["--device", recipe.device]
    prompt = [] if request.system_message is None else ["--system-message", shlex.quote(request.system_message)]
    prompt += ["--score-rule", shlex.quote(path_text(request.score_rule))] if request.score_rule != "visualprm" else []
    lines = []
    if recipe.precision != "fp32":
        lines.append(["python -m vprm_optimize.split", f"{output}/{REPORT_NAME}", "split"])
        if prompt:  # else what takes a bundle takes the checkpoint
            reference = "reference"
            lines.append(["vprm export", checkpoint, reference, "--precision fp32", *prompt])
    if recipe.is_calibrated:
        more = ["--sensitivity", recipe.precision, "--target", recipe.layout] if recipe.keep_high else []
        lines.append(["vprm calibrate", reference, "--data split/calibrate.jsonl", *more, "-o calibration.safetensors"])
    lines.append(["vprm export", checkpoint, "by-hand", *recipe.export_arguments(), *prompt])
    if recipe.precision != "fp32":
        budget = [f"{option} {allowed:g}" for option, allowed in zip(_ALLOWED, astuple(request.budget), strict=True)]
        judge = ["vprm quality by-hand --against", reference, "--data split/judge.jsonl", *budget]
        lines.append([*judge, *device, *threads])
    if engine is not None:
        lines.append([engine["command"]])
    lines.append(["vprm bench bundles", output, *device, "--responses", str(RESPONSES[request.goal]), *threads])
    lines.append(["vprm score", output, *device, "--image FIGURE --question TEXT --response TEXT"])
    return [" ".join(words) for words in lines]


def not_measured(request: Request, plan: Plan, engine: dict[str, Any] | None) -> list[str]:
    """What could not be made or found out on this machine, and the command that does it, here or on the other."""
    title, output = plan.target.title, shlex.quote(path_text(request.output))
    lines = []
    if engine is not None and not engine["built"]:
        lines.append(f"no engine for {title}: {engine['why']}")
    if engine is not None and engine["built"]:
        lines += [f"the engine for {title} is not what its precision promises: {one}" for one in engine["problems"]]
    if plan.target.runs_here:
        return lines
    lines.append(f"speed on {title}: there, run  vprm bench bundles {output}")
    if plan.target.is_gpu:
        judge = f"vprm quality {output} --against {shlex.quote(_source(request.checkpoint))} --data ROWS"
        lines.append(f"accuracy on {title} (here the CPU computed the same graphs): there, run  {judge}")
    return lines


def _source(checkpoint: Path) -> str:
    """The checkpoint as a command takes it: of the hub's cache, the model's id and revision."""
    model = hub_id(checkpoint)
    return path_text(checkpoint) if model is None else f"{model}@{Checkpoint.open(checkpoint).revision}"


def with_summary(manifest: Manifest, request: Request, plan: Plan, best: Outcome) -> Manifest:
    """The manifest with what was found out, but for times: the same inputs give the same bytes."""
    quality = best.quality or {}
    rows = "the demo PRM's" if plan.selection.is_demo else plan.selection.fingerprint
    return replace(
        manifest,
        optimisation=Optimisation(
            made_for=plan.target.name if plan.target.name != "this" else plan.target.title,
            goal=request.goal,
            recipe=best.recipe.name,
            device=best.recipe.device,
            rows=rows,
            rows_judged=int(quality.get("rows", 0)),
            figures={key: float(quality[key]) for key in _FIGURES if quality.get(key) is not None},
            budget={key: float(value) for key, value in asdict(request.budget).items()},
        ),
    )


def outcome_cells(outcome: dict[str, Any]) -> list[str]:
    """A recipe of the report as text: name, state, size, error, F1 change, flips, prefill, best of N, step, reason."""
    quality, speed, size = outcome["quality"], outcome["speed"], outcome["size_bytes"]

    def figure(document: dict[str, Any] | None, key: str, form: str) -> str:
        return "" if document is None or document[key] is None else format(document[key], form)

    flips = ""
    if quality is not None and quality["choices"]:
        low, high = quality["flips_outside_interval"]
        flips = f"{quality['flips_outside']:.1%} ({low:.1%} to {high:.1%})"
    return [
        outcome["name"],
        outcome["state"],
        "" if size is None else f"{size / 1e6:,.1f} MB",
        figure(quality, "mean_error", ".4f"),
        figure(quality, "f1_change", ".4f"),
        flips,
        figure(speed, "prefill_s", ".3g"),
        figure(speed, "best_of_n_s", ".3g"),
        figure(speed, "step_s", ".3g"),
        outcome["reason"],
    ]


COLUMNS = (
    "recipe", "state", "size", "error", "F1 change", "choice flips", "prefill s", "best of N s", "step s",
    "reason",
)  # fmt: skip
