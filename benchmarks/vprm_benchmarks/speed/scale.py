"""`vprm bench scale`: rows per second of several workers and of one process, the cost of Ray, prefix hits if routed."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vprm_benchmarks.speed.cli import Say, add_benchmark, add_number, add_rounds
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_runtime import StepScorer
from vprm_runtime.cli.common import Subparsers
from vprm_runtime.demo import demo_hook

_RAY_GOAL = Goal(bar=0.95, stretch=1.0, better="higher")
_FEW_ROWS = 8  # a run of so many is all start-up
_CACHE_BYTES = 64 << 20


def register(benchmarks: Subparsers) -> None:
    """Add the `scale` parser."""
    parser = add_benchmark(
        benchmarks,
        "scale",
        run,
        "rows per second of 1 and 2 workers, and on Ray, beside one process of two threads",
        "Score the demo's rows with vprm score: one process of two threads, one and two workers of one thread, two "
        "workers on Ray. Start-up is measured apart. And count prefix hits of replicas with and without routing.",
    )
    add_rounds(parser, default=1)
    add_number(parser, "--rows", 1000, "rows of a run")
    add_number(parser, "--replicas", 4, "replicas that requests are routed to")
    add_number(parser, "--prefixes", 12, "prefixes of the requests")
    add_number(parser, "--requests", 8, "requests about each prefix")


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; the demo PRM is exported to the user's cache directory if it is not there."""
    from vprm_benchmarks.speed.roofline import cpu_roofline
    from vprm_demo import held_out_rows

    say("roofline")
    report = Report("scale", cpu_roofline(args.threads, args.roofline_size))
    names = ("rows", "replicas", "prefixes", "requests", "rounds")
    report.settings = {name: getattr(args, name) for name in names}
    bundle = demo_hook("bundle")()
    options = {
        "one_process_2_threads": ["--threads", "2"],
        "one_worker_1_thread": ["--processes", "1", "--threads", "1"],
        "two_workers_1_thread": ["--processes", "2", "--threads", "1"],
    }
    if find_spec("ray") is not None:
        options["two_ray_workers_1_cpu"] = ["--ray", "local", "--workers", "2"]
    many, few = held_out_rows(args.rows), held_out_rows(_FEW_ROWS)
    with tempfile.TemporaryDirectory(prefix="vprm-bench-") as folder:
        calls: dict[str, Callable[[], None]] = {}
        for name, words in options.items():
            calls[f"{name}, start-up"] = partial(_score, bundle, few, Path(folder), words)
            calls[name] = partial(_score, bundle, many, Path(folder), words)
        report.add_times(interleaved(calls, args.rounds, warmups=0, say=say))
    for name in options:
        seconds = report.contenders[name]["median_s"] - report.contenders[f"{name}, start-up"]["median_s"]
        report.contenders[name]["rows_per_s"] = (args.rows - _FEW_ROWS) / seconds
    base = "one_process_2_threads"
    for name in options:
        if name != base:
            report.ratio(name, base, _RAY_GOAL if "ray" in name else None, key="rows_per_s")
    say("prefix hits")
    report.accuracy = {"prefix_hit_rate": _hit_rates(bundle, args)}
    return report


def _score(bundle: Path, rows: Path, folder: Path, options: list[str]) -> None:
    output = folder / f"{time.monotonic_ns()}.jsonl"
    command = [sys.executable, "-m", "vprm", "score", str(bundle), "--input", str(rows), "--output", str(output)]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with output.open("rb") as lines:
        found = [json.loads(line) for line in lines]
    if any("error" in document for document in found):
        raise RuntimeError(f"{rows} has rows that cannot be scored: the figures would not compare")


def _hit_rates(bundle: Path, args: argparse.Namespace) -> dict[str, float]:
    """Share of requests whose prefix is kept already, over all replicas; each request has one response."""
    from vprm_serving.rendezvous import ranked

    scorer = StepScorer.open(bundle, "cpu", threads=args.threads)
    order = np.random.default_rng(0).permutation(args.prefixes * args.requests) % args.prefixes
    rates = {}
    for name in ("routed by prefix", "in turns"):
        replicas = [scorer.with_engine(scorer.engine, prefix_cache_bytes=_CACHE_BYTES) for _ in range(args.replicas)]
        for number, prefix in enumerate(order.tolist()):
            place = ranked(str(prefix).encode(), args.replicas)[0] if name != "in turns" else number % args.replicas
            replicas[place].score(None, f"What is {prefix} + 1?", [f"It is {number}."])
        hits = sum(replica.prefix_cache.hits for replica in replicas)
        rates[name] = hits / sum(replica.prefix_cache.queries for replica in replicas)
    return rates
