"""`vprm optimize`: one command from a checkpoint to the best bundle for a machine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from vprm_export.command import print_readings
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import SCHEMA_VERSION
from vprm_runtime.cli.arguments import add_image_root, add_json, add_threads
from vprm_runtime.cli.common import (
    Subparsers,
    phase_progress,
    positive_int,
    print_json,
    print_stderr,
    stderr_console,
    stdout_console,
)
from vprm_runtime.cli.text_argument import text_argument
from vprm_runtime.machine import cache_directory, this_machine

if TYPE_CHECKING:
    from vprm_optimize.plan import Plan, Request

_MACHINES = ("this", "cpu", "cpu-amx", "cpu-avx512", "l4", "l40s", "a100", "h100", "rtx-40", "rtx-50")
_SHOWN = ("state", "size", "error", "F1 change", "best of N s")  # columns that 80 characters have room for
_GOALS = ("latency", "throughput", "size", "exact")


def register(subparsers: Subparsers) -> None:
    """Add the `optimize` parser."""
    parser = subparsers.add_parser(
        "optimize",
        help="make the best bundle of a checkpoint for a machine",
        description="Export, calibrate, quantise, judge against the checkpoint in floating point, time, and keep the "
        "fastest bundle that judges as the original does, with a report. The plan is printed first. A run that was "
        "interrupted goes on where it was. Exit code 1 if no recipe holds the budget.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint directory, or a model's id on the hub")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle directory to make; must not exist")
    parser.add_argument(
        "--for", dest="target", choices=_MACHINES, default="this", help="machine that will run it (default: this one)"
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, default=[], metavar="FILE",
        help="rows to calibrate and judge on, split by question (default: the demo PRM's stand in)",
    )  # fmt: skip
    add_image_root(parser)
    parser.add_argument("--goal", choices=_GOALS, default="latency", help="what the best bundle is (default: latency)")
    parser.add_argument(
        "--budget", default="int8", metavar="P|FILE",
        help="how much scores may change: that of a precision, exact, or FILE.json (default: int8)",
    )  # fmt: skip
    parser.add_argument(
        "--system-message", metavar="TEXT|@FILE", help="instead of the checkpoint's or the template's own"
    )
    parser.add_argument(
        "--score-rule", metavar="RULE", default="visualprm", help="visualprm, mm-prm or FILE.json (default: visualprm)"
    )
    parser.add_argument("--max-rows", type=positive_int, metavar="N", help="rows to judge on (default: by their time)")
    parser.add_argument(
        "--time-limit", type=positive_int, metavar="MIN", help="minutes to plan for; those of interrupted runs count"
    )
    add_threads(parser)
    parser.add_argument("--keep-all", action="store_true", help="keep the other bundles that hold the budget too")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with estimates and stop")
    parser.add_argument("--html", action="store_true", help="write report.html into the bundle")
    add_json(parser)
    parser.set_defaults(run=run, extra="optimize")


def run(args: argparse.Namespace) -> int:
    """Plan, run, report. Returns the exit code."""
    from vprm_export.hub import local_checkpoint
    from vprm_optimize.api import optimize, planned
    from vprm_optimize.decide import NoneHeldError, read_budget
    from vprm_optimize.plan import Request

    request = Request(
        checkpoint=local_checkpoint(args.checkpoint, print_stderr),
        output=args.bundle,
        target=args.target,
        data=tuple(args.data),
        image_root=args.image_root,
        goal=args.goal,
        budget=read_budget(args.budget),
        budget_name=args.budget,
        max_rows=args.max_rows,
        time_limit_s=None if args.time_limit is None else 60.0 * args.time_limit,
        threads=args.threads,
        keep_all=args.keep_all,
        system_message=text_argument(args.system_message, "system message"),
        score_rule=args.score_rule,
    )
    if args.dry_run:
        plan = planned(request)
        if args.json:
            print_json(plan_document(plan))
        else:
            _print_plan(plan, request, stdout_console())
        return 0
    console = stderr_console()
    try:
        with phase_progress("optimizing") as bars:
            report = optimize(request, bars, lambda plan: _print_plan(plan, request, console), args.html)
    except KeyboardInterrupt:
        print_stderr("the same command goes on where this was")
        raise
    except NoneHeldError as error:
        console.print(Text(str(error)), soft_wrap=True)
        if args.json:
            print_json(error.report)
        return 1
    if args.json:
        print_json(report)
    else:
        print_readings(Bundle.open(request.output).manifest)
        _print_report(report, stdout_console())
    return 0


def bundle_in_cache(checkpoint: Path) -> Path:
    """The best bundle of a checkpoint (or of a model's id) for this machine, made once, in the cache folder.

    The plan goes to stderr. Changed weights, another version of vprm or another machine give another bundle. Raises
    what `optimize` raises.
    """
    import hashlib
    from importlib.metadata import version

    from vprm_export.hub import local_checkpoint
    from vprm_optimize.api import optimize
    from vprm_optimize.plan import Request

    checkpoint = local_checkpoint(checkpoint, print_stderr)
    digest = hashlib.sha256(f"{version('vprm')} {SCHEMA_VERSION} {this_machine()}".encode())
    for file in sorted(checkpoint.iterdir()):
        stat = file.stat()
        digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
    bundle = cache_directory() / f"optimised-{digest.hexdigest()[:16]}"
    if not bundle.exists() or bundle.with_name(f"{bundle.name}.parts").exists():
        console = stderr_console()
        request = Request(checkpoint, bundle)
        with phase_progress("optimizing") as bars:
            optimize(request, bars, lambda plan: _print_plan(plan, request, console))
        print_readings(Bundle.open(bundle).manifest)
    return bundle


def plan_document(plan: "Plan") -> dict[str, Any]:
    """The plan for `--dry-run --json`."""
    from vprm_optimize.plan import disk_needed

    return {
        **plan.to_dict(),
        "seconds_certain": plan.seconds(certain=True),
        "seconds_at_most": plan.seconds(certain=False),
        "disk_bytes": disk_needed(plan),
        "memory_bytes": max(stage.memory_bytes for stage in plan.stages),
    }


def _print_plan(plan: "Plan", request: "Request", console: Console) -> None:
    from vprm_optimize.plan import disk_needed

    console.print(Text(f"{request.checkpoint} -> {request.output}, for {plan.target.title}, goal {request.goal}"))
    table = Table("stage", "about", "disk", "memory", show_edge=False)
    for stage in plan.stages:
        name = stage.name if stage.is_certain else f"({stage.name})"
        disk = _size(stage.disk_bytes) if stage.disk_bytes else ""
        table.add_row(Text(name), _duration(stage.seconds), disk, _size(stage.memory_bytes))
    console.print(table)
    for recipe, why in plan.left_out:
        console.print(Text(f"left out: {recipe.name}: {why}"))
    for note in (*plan.notes, *plan.rates.lines()):
        console.print(Text(f"note: {note}"))
    certain, most = _duration(plan.seconds(certain=True)), _duration(plan.seconds(certain=False))
    lines = [
        f"about {certain}, or {most} if every recipe has to be tried; {_size(disk_needed(plan))} of disk on the way;",
        f"{plan.calibration_rows} rows calibrate, {plan.judging_rows} judge.",
        "Stages in brackets run only if no recipe before them holds the budget.",
    ]
    console.print(Text(" ".join(lines)))


def _print_report(report: dict[str, Any], console: Console) -> None:
    from vprm_optimize.report import COLUMNS, outcome_cells

    table = Table(Column("recipe", overflow="fold"), *_SHOWN, show_edge=False)
    for one in report["recipes"]:
        if one["state"] == "not tried":
            continue
        cells = dict(zip(COLUMNS, outcome_cells(one), strict=True))
        style = "bold green" if one["state"] == "chosen" else ""
        table.add_row(*(Text(cells[name], style) for name in ("recipe", *_SHOWN)))
    console.print(table)
    for one in report["recipes"]:
        if one["reason"] and one["state"] != "chosen":
            console.print(Text(f"{one['name']}: {one['reason']}"))
    console.print(Text(f"{report['bundle']}: {report['chosen']}: {report['reason']}", "bold"))
    if report["engine"] is not None and report["engine"]["built"]:
        engine = report["engine"]
        console.print(Text(f"{engine['folder']}: engines, {_size(engine['size_bytes'])}, by {engine['library']}"))
    for line in report["not_measured"]:
        console.print(Text(f"not measured: {line}"))
    console.print(Text(f"score with:  {report['commands'][-1]}"))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
