"""``vprm parity``: compare a bundle with the PyTorch reference, stage by stage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from vprm_runtime import InputError
from vprm_runtime.cli.arguments import add_bundle, add_device, add_image_root, add_json, add_threads
from vprm_runtime.cli.common import (
    Subparsers,
    activity,
    check_output_file,
    positive_int,
    print_json,
    print_stderr,
    resolve_bundle,
    stdout_console,
)
from vprm_runtime.cli.text_argument import text_argument
from vprm_runtime.files import write_whole

if TYPE_CHECKING:
    from vprm_benchmarks.parity.report import ParityReport


def register(subparsers: Subparsers) -> None:
    """Add the `parity` parser. Nothing heavy is imported before it runs."""
    parser = subparsers.add_parser(
        "parity",
        help="prove a bundle equal to a PyTorch reference, stage by stage",
        description="Score the same questions with a bundle and with a PyTorch reference on the checkpoint it was "
        "exported from, and compare tiles, token ids, score positions, image embeddings, logits, scores and ranking. "
        "Exit code 1 when a stage is out of tolerance. Without arguments: the demo PRM.",
    )
    add_bundle(parser)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="what it was exported from (needed with BUNDLE)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="rows, jsonl or parquet (default: built-in cases)")
    add_image_root(parser)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="take only the first N cases or rows")
    parser.add_argument("--system-message", metavar="TEXT|@FILE", help="the reference's (default: the model's)")
    parser.add_argument("--score-rule", metavar="RULE", help="visualprm, mm-prm or FILE.json (default: by name)")
    parser.add_argument("--reference-device", default="cpu", metavar="DEVICE", help="PyTorch device (default: cpu)")
    add_device(parser)
    add_threads(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with plots")
    add_json(parser)
    parser.set_defaults(run=run, extra="cpu,export,reference")


def run(args: argparse.Namespace) -> int:
    """Run the comparison and write what was asked for; 0 when every stage passes, else 1."""
    from vprm_benchmarks.parity.api import ParityOptions, run_parity
    from vprm_benchmarks.parity.report import page_from_report, table_from_report
    from vprm_report import html_from_page

    check_output_file(args.html)
    options = ParityOptions(
        data=args.data,
        image_root=args.image_root,
        limit=args.limit,
        system_message=text_argument(args.system_message, "system message"),
        score_rule=args.score_rule,
        reference_device=args.reference_device,
        device=args.device,
        threads=args.threads,
    )
    with activity("parity", "cases") as say:
        report = run_parity(resolve_bundle(args.bundle), _checkpoint(args), options, progress=say)
    if args.html is not None:
        write_whole(args.html, html_from_page(page_from_report(report)).encode())
    if args.json:
        print_json(report.to_json())
    else:
        console = stdout_console()
        console.print(table_from_report(report))
        console.print(_verdict(report))
    for row in report.not_comparable:
        print_stderr(f"not comparable: row {row.name}: {row.reason}")
    return 0 if report.passed else 1


def _checkpoint(args: argparse.Namespace) -> Path:
    if args.checkpoint is not None:
        from vprm_export.hub import local_checkpoint

        return local_checkpoint(args.checkpoint, print_stderr)
    if args.bundle is not None:
        raise InputError("give --checkpoint DIR, the directory that the bundle was exported from")
    from vprm_demo import checkpoint_dir

    return checkpoint_dir()


def _verdict(report: ParityReport) -> Text:
    what = f"{report.cases} cases, {report.candidates} candidates, {report.steps} steps"
    failed = [stage for stage in report.stages if not stage.passed]
    if not failed:
        return Text.assemble(f"{what}: ", ("every stage within its tolerance", "green"))
    problems = [f"\n{stage.stage}: {problem}" for stage in failed for problem in stage.problems[:3]]
    names = ", ".join(stage.stage for stage in failed)
    return Text.assemble(f"{what}: ", ("out of tolerance: ", "bold red"), names, *problems)
