"""`vprm bench serve`: a server under load, beside one with a lock and no cache."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from vprm_runtime.cli.arguments import add_bundle, add_json
from vprm_runtime.cli.common import Subparsers, activity, positive_int, print_json, resolve_bundle, stdout_console

_DEFAULT = "throughput,latency,connections,overload,fairness"


def register(benchmarks: Subparsers) -> None:
    """Add the `serve` parser."""
    parser = benchmarks.add_parser(
        "serve",
        help="a server under load: throughput, latency, overload, fairness, a long soak",
        description="Start vprm serve and a server with one lock and no cache on the same engine, put load on them: "
        "closed loop for throughput, open loop for overload and fairness. Answers are compared with scoring in this "
        "process.",
    )
    add_bundle(parser)
    parser.add_argument("--parts", default=_DEFAULT, metavar="NAMES", help=f"also: soak (default: {_DEFAULT})")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of one measurement (default: 10)")
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="measured rounds (default: 3)")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="M", help="of the soak (default: 30)")
    parser.add_argument(
        "--overload-seconds", type=float, default=60.0, metavar="S", help="of the overload (default: 60)"
    )
    add_json(parser)
    parser.set_defaults(run=run, extra="bench,serve")


def run(args: argparse.Namespace) -> int:
    """Measure the parts that are asked for. Returns 1 if an answer differs from scoring in this process."""
    from vprm_benchmarks.serving.parts import PARTS, Bench, Figures, overload, soak
    from vprm_benchmarks.speed.machine import machine
    from vprm_runtime import InputError, StepScorer

    chosen: dict[str, Callable[[Bench], Figures]] = {
        **PARTS,
        "soak": partial(soak, minutes=args.minutes),
        "overload": partial(overload, seconds=args.overload_seconds),
    }
    names = [name.strip() for name in args.parts.split(",")]
    unknown = [name for name in names if name not in chosen]
    if unknown:
        raise InputError(f"no part {unknown[0]!r}: there are {', '.join(chosen)}")
    bundle = resolve_bundle(args.bundle)
    scorer = StepScorer.open(bundle, "cpu")
    with activity("serve") as say:
        bench = Bench(bundle, scorer, args.seconds, args.rounds, say)
        parts = {name: chosen[name](bench) for name in names}
    precision = scorer.manifest.graphs.llm.precision
    document = {
        "benchmark": "serve",
        "bundle": bundle.name,
        "precision": precision,
        "settings": {"seconds": args.seconds, "rounds": args.rounds},
        "machine": machine(),
        "parts": parts,
        "accuracy": {"compared_responses": bench.compared, "largest_difference": bench.largest_difference},
    }
    if args.json:
        print_json(document)
    else:
        stdout_console().print_json(data={**parts, "accuracy": document["accuracy"]})
    return int(precision == "fp32" and bench.largest_difference > 1e-6)
