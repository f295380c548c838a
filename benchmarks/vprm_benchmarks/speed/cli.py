"""What the subcommands of `vprm bench` share: options, progress on stderr, and the ways a report goes out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vprm_runtime.cli.arguments import add_json, add_threads
from vprm_runtime.cli.common import (
    Subparsers,
    activity,
    check_output_file,
    positive_int,
    print_json,
    stdout_console,
)
from vprm_runtime.cli.progress import Say as Say
from vprm_runtime.errors import InputError

if TYPE_CHECKING:
    from vprm_benchmarks.speed.report import Report

_PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def add_benchmark(
    benchmarks: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace, Say], Report],
    help_text: str,
    description: str,
) -> argparse.ArgumentParser:
    """Add the parser of one benchmark, with the options that all have.

    `run` measures and returns the report. Modules import PyTorch and engines inside it: parsers are built for every
    command.
    """
    parser: argparse.ArgumentParser = benchmarks.add_parser(name, help=help_text, description=description)
    add_threads(parser)
    parser.add_argument(
        "--roofline-size", type=positive_int, default=2048, metavar="N", help="side of its matrices (default: 2048)"
    )
    add_json(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the medians")
    parser.set_defaults(run=lambda args: _run(args, run), benchmark=name)
    return parser


def add_rounds(parser: argparse.ArgumentParser, default: int) -> None:
    """Add `--rounds`: how often every contender runs."""
    add_number(parser, "--rounds", default, "measured rounds")


def add_number(parser: argparse.ArgumentParser, option: str, default: int, text: str) -> None:
    """Add an option that takes an integer of at least 1."""
    parser.add_argument(option, type=positive_int, default=default, metavar="N", help=f"{text} (default: {default})")


def _run(args: argparse.Namespace, run: Callable[[argparse.Namespace, Say], Report]) -> int:
    check_output_file(args.plot)
    if args.plot is not None and args.plot.suffix.lower() not in _PLOT_SUFFIXES:
        raise InputError(f"{args.plot} is not the name of an image: end it in one of {', '.join(_PLOT_SUFFIXES)}")
    with activity(args.benchmark) as say:
        report = run(args, say)
    if args.plot is not None:
        from vprm_benchmarks.speed.plot import draw_report

        draw_report(report, args.plot)
    if args.json:
        print_json(report.to_json())
    else:
        stdout_console().print(report.tables())
    return 0
