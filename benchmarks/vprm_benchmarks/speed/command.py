"""`vprm bench`: one subcommand per benchmark. Nothing heavy is imported before one runs."""

from __future__ import annotations

from vprm_benchmarks.serving import command as serving
from vprm_benchmarks.speed import best_of_n, engine, export, linear, preprocess, programs, scale, session
from vprm_runtime.cli.common import Subparsers

_BENCHMARKS = (best_of_n, session, engine, linear, preprocess, export, serving, scale, programs)


def register(subparsers: Subparsers) -> None:
    """Add the `bench` parser and its subcommands. Nothing heavy is imported before one runs."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed: a roofline first, contenders interleaved, medians",
        description="Measure speed on this machine. Every benchmark begins with the measured peak of matrix products "
        "and memory, runs its contenders in turns, and gives medians, ratios within the run and their goals.",
    )
    parser.set_defaults(extra="bench")
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    for module in _BENCHMARKS:
        module.register(benchmarks)
