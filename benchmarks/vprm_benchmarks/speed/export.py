"""`vprm bench export`: time and peak memory of an export, beside copying the checkpoint's files."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vprm_benchmarks.speed.cli import Say, add_benchmark, add_rounds
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_runtime.bundle.manifest import PRECISIONS, Precision
from vprm_runtime.cli.common import Subparsers, positive_int
from vprm_runtime.errors import EngineError

_TIME_GOAL = Goal(bar=4.0, stretch=2.0)
_PEAK_GOAL_GB = Goal(bar=1.5, stretch=0.6)


def register(benchmarks: Subparsers) -> None:
    """Add the `export` parser."""
    parser = add_benchmark(
        benchmarks,
        "export",
        run,
        "time and peak memory of an export beside copying the files",
        "Write checkpoints of random bfloat16 weights at two depths to a temporary directory, export them and copy "
        "their files in turns, until everything is on the disk (fsync). Every export runs in a process of its own, "
        "whose peak resident memory is taken. The defaults make 3.9 GB.",
    )
    add_rounds(parser, default=3)
    parser.add_argument(
        "--model", choices=("8b-slice", "tiny"), default="8b-slice", help="shapes of the layers (default: 8b-slice)"
    )
    parser.add_argument(
        "--layers", type=positive_int, default=4, metavar="L", help="LLM layers; L/2 are measured too (default: 4)"
    )
    parser.add_argument(
        "--vision-layers", type=positive_int, default=24, metavar="V", help="vision layers (default: 24)"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["fp16", "fp32", "int8"], metavar="P",
        help="precisions to export to (default: fp16 fp32 int8)",
    )  # fmt: skip
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where to write (default: the temporary directory)"
    )


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; whatever is written is removed again."""
    from vprm_benchmarks.random_checkpoint import write_random_checkpoint
    from vprm_benchmarks.speed.roofline import cpu_roofline

    say("roofline")
    report = Report("export", cpu_roofline(args.threads, args.roofline_size))
    names = ("model", "layers", "vision_layers", "precisions", "rounds")
    report.settings = {name: getattr(args, name) for name in names}
    with tempfile.TemporaryDirectory(prefix="vprm-bench-", dir=args.directory) as folder:
        calls: dict[str, Callable[[], object]] = {}
        target = Path(folder) / "target"
        for suffix, layers in (("", args.layers), ("_half_depth", max(1, args.layers // 2))):
            say(f"random weights of {layers} layers")
            checkpoint = write_random_checkpoint(Path(folder) / f"checkpoint{suffix}", _spec(args, layers))
            read_bytes = sum(file.stat().st_size for file in checkpoint.iterdir())
            for name in ("copy", *(f"export_{precision}" for precision in args.precisions)):
                entry: dict[str, Any] = {"layers": layers, "checkpoint_bytes": read_bytes}
                report.contenders[name + suffix] = entry
                what = copy if name == "copy" else partial(export, name.removeprefix("export_"), entry)
                calls[name + suffix] = partial(_counted, entry, partial(what, checkpoint, target))
        clear = partial(shutil.rmtree, target)
        report.add_times(interleaved(calls, args.rounds, warmups=0, say=say, after=clear))
    _compare(report, args.precisions)
    return report


def copy(checkpoint: Path, target: Path) -> None:
    """Copy every file of a checkpoint, and see it on the disk."""
    shutil.copytree(checkpoint, target, copy_function=shutil.copyfile)
    _finish(target)


def export(precision: str, entry: dict[str, Any], checkpoint: Path, target: Path) -> None:
    """Export in a new process and see the bundle on the disk; notes peak memory and size in `entry`."""
    command = [sys.executable, "-m", "vprm_benchmarks.speed.export_once", str(checkpoint), str(target), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"the export to {precision} failed: {done.stderr.strip()[-500:]}")
    peak = json.loads(done.stdout)["peak_rss_bytes"]
    entry["peak_rss_bytes"] = max(peak, entry.get("peak_rss_bytes", 0))
    entry["written_bytes"] = sum(file.stat().st_size for file in target.iterdir())
    _finish(target)


def _counted(entry: dict[str, Any], call: Callable[[], None]) -> None:
    """Run and note processor seconds, the system's and child processes' too: what a busy machine changes least."""
    before = _processor_s()
    call()
    entry.setdefault("processor_times_s", []).append(_processor_s() - before)


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _finish(target: Path) -> None:
    for file in target.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _compare(report: Report, precisions: list[Precision]) -> None:
    for entry in report.contenders.values():
        entry["processor_s"] = statistics.median(entry.pop("processor_times_s"))
        for key in ("median_s", "processor_s"):
            entry[f"{key.removeprefix('median_')}_per_gb"] = entry[key] / (entry["checkpoint_bytes"] / 1e9)
    for precision in precisions:
        name = f"export_{precision}"
        report.ratio(name, "copy", _TIME_GOAL)
        processor = [report.contenders[one]["processor_s"] for one in (name, "copy")]
        report.add_ratio(f"{name}_over_copy_processor_s", processor[0] / processor[1])
        report.hold(f"{name}_peak_rss_gb", report.contenders[name]["peak_rss_bytes"] / 1e9, _PEAK_GOAL_GB)
        for key in ("s_per_gb", "processor_s_per_gb", "peak_rss_bytes"):
            whole, half = report.contenders[name][key], report.contenders[f"{name}_half_depth"][key]
            report.add_ratio(f"{name}_{key}_over_half_depth", whole / half)


def _spec(args: argparse.Namespace, layers: int) -> Any:
    from vprm_benchmarks.random_checkpoint import tiny_spec, visualprm_8b_spec

    if args.model == "8b-slice":
        return visualprm_8b_spec(layers, args.vision_layers)
    tiny = tiny_spec()
    llm, vision = replace(tiny.llm, layers=layers), replace(tiny.vision, layers=args.vision_layers)
    return replace(tiny, llm=llm, vision=vision, dtype="bfloat16")
