"""`vprm export`: a checkpoint directory becomes a bundle directory."""

import argparse
from pathlib import Path

from rich.markup import escape
from rich.text import Text

from vprm_runtime.bundle.manifest import PRECISIONS, TARGETS, Manifest
from vprm_runtime.cli.common import Subparsers, byte_progress, stderr_console
from vprm_runtime.cli.text_argument import text_argument
from vprm_runtime.errors import InputError


def register(subparsers: Subparsers) -> None:
    """Add the `export` parser."""
    parser = subparsers.add_parser(
        "export",
        help="turn a checkpoint into a bundle",
        description="Build both ONNX graphs from a checkpoint directory (config.json, safetensors, tokenizer files).",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint directory")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle directory to make; must not exist")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the LLM (default: fp32)")
    parser.add_argument(
        "--vision-precision", choices=PRECISIONS, help="of the vision encoder (default: as the LLM, never quantised)"
    )
    parser.add_argument(
        "--target", choices=TARGETS, default="cpu", help="engines that a quantised graph is laid out for"
    )
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="made by  vprm calibrate")
    parser.add_argument(
        "--keep-high", type=int, default=0, metavar="N", help="leave the N most sensitive Linears in floating point"
    )
    parser.add_argument(
        "--system-message", metavar="TEXT|@FILE", help="instead of the checkpoint's or the template's own"
    )
    parser.add_argument(
        "--score-rule", metavar="RULE", default="visualprm", help="visualprm, mm-prm or FILE.json (default: visualprm)"
    )
    parser.set_defaults(run=run, extra="export")


def run(args: argparse.Namespace) -> int:
    """Export. Returns the exit code."""
    from vprm_export.exporter import ExportOptions, export_bundle

    system_message = text_argument(args.system_message, "system message")
    if args.keep_high < 0:
        raise InputError(f"--keep-high must be at least 0, got {args.keep_high}")
    options = ExportOptions(
        args.precision, args.vision_precision, system_message, args.score_rule, args.target, args.calibration,
        args.keep_high,
    )  # fmt: skip
    with byte_progress("exporting") as progress:
        manifest = export_bundle(args.checkpoint, args.bundle, options, progress)
    _print_readings(manifest)
    stderr_console().print(f"wrote {escape(str(args.bundle))}", highlight=False)
    return 0


def _print_readings(manifest: Manifest) -> None:
    """What was read from where and what was assumed: whatever decides scores beside the weights, a line each."""
    readings = manifest.provenance.readings
    width = max((len(reading.what) for reading in readings), default=0)
    for reading in readings:
        source = f"ASSUMED, {reading.source}" if reading.assumed else reading.source
        line = Text(f"{reading.what:{width}}  {reading.value}  ({source})", "yellow" if reading.assumed else "")
        stderr_console().print(line, soft_wrap=True, highlight=False)
