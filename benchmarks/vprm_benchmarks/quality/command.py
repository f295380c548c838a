"""`vprm quality`: what changed between a bundle and the one it was made of."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vprm_benchmarks.evaluation.command import DEMO_BEST_OF_N, DEMO_HELD_OUT
from vprm_runtime.cli.arguments import add_bundle, add_device, add_image_root, add_json, add_threads
from vprm_runtime.cli.common import (
    RowBar,
    Subparsers,
    check_output_file,
    positive_int,
    print_json,
    print_stderr,
    resolve_bundle,
    stdout_console,
)
from vprm_runtime.files import write_whole

if TYPE_CHECKING:
    from vprm_benchmarks.quality.budget import Budget


def register(subparsers: Subparsers) -> None:
    """Add the `quality` parser."""
    parser = subparsers.add_parser(
        "quality",
        help="compare a bundle's scores with another's, or with a checkpoint's",
        description="Step-score error, F1 and AUC before and after, best-of-N choices that flip, error by layer. "
        "Exit code 1 beyond the budget of the bundle's precision.",
    )
    add_bundle(parser)
    parser.add_argument("--against", type=Path, required=True, metavar="BUNDLE|CHECKPOINT", help="the reference")
    parser.add_argument(
        "--data",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help=f"rows, jsonl or parquet (default: {DEMO_HELD_OUT:,} and {DEMO_BEST_OF_N} of the demo's, for minutes)",
    )
    add_image_root(parser)
    parser.add_argument("--max-rows", type=positive_int, metavar="N", help="of each file at most")
    parser.add_argument("--max-mean-error", type=_share, metavar="X", help="budget: mean step-score error")
    parser.add_argument("--max-f1-change", type=_share, metavar="X", help="budget: change of macro F1")
    parser.add_argument(
        "--max-flips", type=_share, metavar="X", help="budget: share of choices flipped outside a margin"
    )
    parser.add_argument(
        "--emulate",
        action="store_true",
        help="run the reference's LLM graph in NumPy: checks how an engine runs a graph",
    )
    add_device(parser)
    parser.add_argument("--against-device", default="auto", help="device of the reference's engine (default: auto)")
    add_threads(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page")
    add_json(parser)
    parser.set_defaults(run=run, extra="calibration")


def run(args: argparse.Namespace) -> int:
    """Compare. Returns 1 if a figure is beyond the budget."""
    from rich.markup import escape
    from rich.table import Table

    from vprm_benchmarks.quality.api import QualityOptions, measure_quality
    from vprm_export.hub import local_checkpoint

    check_output_file(args.html)
    bundle = resolve_bundle(args.bundle)
    against = local_checkpoint(args.against, print_stderr)
    data = tuple(args.data) or _demo_rows(args.max_rows)
    options = QualityOptions(
        data, args.max_rows, _budget(args, bundle), args.threads, args.emulate,
        args.image_root, args.device, args.against_device,
    )  # fmt: skip
    with RowBar("comparing") as bar:
        reports = measure_quality(
            {bundle.name: bundle},
            against,
            options,
            bar.advance,
        )
    report = reports[bundle.name]
    if report.left_out:
        first = report.left_out[0]
        text = f"{len(report.left_out)} rows were left out, the first is row {first.number}: {first.reason}"
        print_stderr(text)
    if args.html is not None:
        write_whole(args.html, report.to_html().encode())
    if args.json:
        print_json(report.to_dict())
    else:
        table = Table(
            "figure", "value", "budget", title=escape(f"{report.bundle} against {report.against}, {report.rows} rows")
        )
        for line in report.lines():
            table.add_row(*line)
        stdout_console().print(table)
        stdout_console().print("within the budget" if report.passed else "beyond the budget", highlight=False)
    return 0 if report.passed else 1


def _share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _demo_rows(max_rows: int | None) -> tuple[Path, ...]:
    from vprm_demo import best_of_n_rows, held_out_rows

    held_out, best_of_n = DEMO_HELD_OUT, DEMO_BEST_OF_N
    if max_rows is not None:
        held_out, best_of_n = min(held_out, max_rows), min(best_of_n, max_rows)
    return held_out_rows(held_out), best_of_n_rows(best_of_n)


def _budget(args: argparse.Namespace, bundle: Path) -> "Budget":
    from vprm_benchmarks.quality.budget import Budget, budget_of
    from vprm_runtime.bundle.bundle import Bundle

    own = budget_of(Bundle.open(bundle).manifest.graphs)
    given = (args.max_mean_error, args.max_f1_change, args.max_flips)
    usual = (own.mean_error, own.f1_change, own.flips_outside)
    return Budget(*(default if value is None else value for value, default in zip(given, usual, strict=True)))
