"""What was found out: report.json, the summary in the manifest, and lines for a terminal."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vprm_benchmarks.speed.bundle_times import STEP_TOKENS, STEPS, TILES
from vprm_export.checkpoint import Checkpoint
from vprm_optimize.decide import Outcome
from vprm_optimize.plan import RESPONSES, Plan, Request
from vprm_runtime.bundle.manifest import Manifest, Optimisation
from vprm_runtime.bundle.names import hub_id
from vprm_runtime.machine import this_machine

REPORT_NAME, PAGE_NAME = "report.json", "report.html"
_FIGURES = {"mean_error": "mean step-score error", "f1_change": "macro F1 change", "flips_outside": "choice flips"}


def report_of(
    request: Request,
    plan: Plan,
    outcomes: Sequence[Outcome],
    best: Outcome | None,
    name: str,
    stages: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The document of report.json and of `--json`. `stages`: what each took, as `Journal.stages` has it."""
    selection = plan.selection
    return {
        "vprm": version("vprm"),
        "model": name,
        "bundle": str(request.output),
        "machine": asdict(this_machine()),
        "made_for": {**asdict(plan.target), "runs_here": plan.target.runs_here},
        "goal": request.goal,
        "budget": {"name": request.budget_name, **asdict(request.budget)},
        "rows": {
            "demo": selection.is_demo,
            "files": sorted({one.file for one in (*selection.calibration, *selection.judging)}),
            "calibration": plan.calibration_rows,
            "judging": plan.judging_rows,
            "split": "by question and images",
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
        "not_measured": [] if best is None else not_measured(request, plan, best),
        "commands": [] if best is None else commands(request, best),
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


def commands(request: Request, best: Outcome) -> list[str]:
    """Commands that make the chosen bundle stage by stage, judge it and use it."""
    checkpoint, output = shlex.quote(_source(request.checkpoint)), shlex.quote(str(request.output))
    data = [f"--data {shlex.quote(str(file))}" for file in request.data[:1]]
    lines = []
    if best.recipe.is_calibrated:
        sensitivity = [f"--sensitivity {best.recipe.precision}"] if best.recipe.keep_high else []
        lines.append(" ".join(["vprm calibrate", checkpoint, *data, *sensitivity, "-o calibration.safetensors"]))
    prompt = ["--system-message", shlex.quote(request.system_message)] if request.system_message is not None else []
    prompt += ["--score-rule", shlex.quote(request.score_rule)] if request.score_rule != "visualprm" else []
    lines.append(" ".join(["vprm export", checkpoint, output, *best.recipe.export_arguments(), *prompt]))
    if best.recipe.precision != "fp32":
        lines.append(" ".join(["vprm quality", output, "--against", checkpoint, *data]))
    device = [] if best.recipe.device in ("cpu", "auto") else ["--device", best.recipe.device]
    lines.append(" ".join(["vprm bench bundles", output, *device, "--responses", str(RESPONSES[request.goal])]))
    lines.append(" ".join(["vprm score", output, *device, "--image FIGURE --question TEXT --response TEXT"]))
    return lines


def not_measured(request: Request, plan: Plan, best: Outcome) -> list[str]:
    """What could not be found out on this machine, and the command that does it on the other."""
    if plan.target.runs_here:
        return []
    title, output = plan.target.title, shlex.quote(str(request.output))
    lines = [f"speed on {title}: there, run  vprm bench bundles {output}"]
    if plan.target.is_gpu:
        judge = f"vprm quality {output} --against {shlex.quote(_source(request.checkpoint))}"
        lines.append(f"accuracy of the engine on {title} (the CPU computed the same graphs): there, run  {judge}")
        if "engines built" not in best.reason:
            lines.append(f"no engine for {title} was built")
    return lines


def _source(checkpoint: Path) -> str:
    """The checkpoint as a command takes it: of the hub's cache, the model's id and revision."""
    model = hub_id(checkpoint)
    return str(checkpoint) if model is None else f"{model}@{Checkpoint.open(checkpoint).revision}"


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
