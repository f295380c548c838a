"""`vprm export`: a checkpoint directory becomes a bundle directory."""

import argparse
import shlex
from pathlib import Path

from rich.text import Text

from vprm_runtime import native
from vprm_runtime.bundle.manifest import PRECISIONS, TARGETS, Manifest, Precision, Target
from vprm_runtime.cli.common import Subparsers, byte_progress, print_stderr, stderr_console
from vprm_runtime.cli.text_argument import text_argument
from vprm_runtime.errors import InputError


def register(subparsers: Subparsers) -> None:
    """Add the `export` parser."""
    parser = subparsers.add_parser(
        "export",
        help="turn a checkpoint into a bundle",
        description="Build both ONNX graphs from a checkpoint directory (config.json, safetensors, tokenizer files).",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint directory, or a model's id on the hub")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle directory to make; must not exist")
    parser.add_argument(
        "--precision", choices=PRECISIONS,
        help="of the LLM (default: with --calibration int8, laid out for this machine; else fp16)",
    )  # fmt: skip
    parser.add_argument(
        "--vision-precision", choices=PRECISIONS, help="of the vision encoder (default: as the LLM, never quantised)"
    )
    parser.add_argument(
        "--target", choices=TARGETS,
        help="engines that a quantised or bf16 graph is laid out for (default: cpu; for bf16 cpu-native)",
    )  # fmt: skip
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
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="export weights that are NaN or infinite too (default: refused)"
    )
    parser.set_defaults(run=run, extra="export")


def run(args: argparse.Namespace) -> int:
    """Export. Returns the exit code."""
    from vprm_export.exporter import ExportOptions, export_bundle
    from vprm_export.hub import local_checkpoint

    system_message = text_argument(args.system_message, "system message")
    if args.keep_high < 0:
        raise InputError(f"--keep-high must be at least 0, got {args.keep_high}")
    precision, target = _chosen(args.precision, args.target, args.calibration)
    options = ExportOptions(
        precision, args.vision_precision, system_message, args.score_rule, target, args.calibration, args.keep_high,
        args.allow_nonfinite,
    )  # fmt: skip
    checkpoint = local_checkpoint(args.checkpoint, print_stderr)
    with byte_progress("exporting") as progress:
        manifest = export_bundle(checkpoint, args.bundle, options, progress)
    print_readings(manifest)
    print_stderr(f"wrote {args.bundle}")
    if manifest.graphs.llm.is_native or manifest.graphs.vision.is_native:
        print_stderr(f"native operators {native.summary()}")
    if args.precision is None:
        for line in _about_default(precision, checkpoint):
            print_stderr(line)
    return 0


def _chosen(precision: Precision | None, target: Target | None, calibration: Path | None) -> tuple[Precision, Target]:
    """Precision and target: as asked for; else int8 with a calibration, and float16 without.

    Without a calibration nothing below float16 is right for every model: with outlier channels planted into the demo
    PRM, step scores of w8 move by 0.03 and of int8 by 0.06 (docs/optimize.md).
    """
    if precision is not None:
        return precision, target or ("cpu-native" if precision == "bf16" else "cpu")
    if calibration is None:
        return "fp16", target or "cpu"
    return "int8", target or ("cpu-native" if native.level() else "cpu")


def _about_default(precision: Precision, checkpoint: Path) -> list[str]:
    """What the default is, and the command that does better."""
    if precision == "int8":
        return ["int8, calibrated, and not yet judged: compare it with  vprm quality BUNDLE --against CHECKPOINT"]
    best = f"vprm optimize {shlex.quote(str(checkpoint))} BUNDLE"
    return [
        f"float16: right for every model, for GPUs, and slow on CPUs; the fastest bundle that judges as well:  {best}"
    ]


def print_readings(manifest: Manifest) -> None:
    """What was read from where and what was assumed: whatever decides scores beside the weights, a line each."""
    from vprm_runtime.cli.inspect import reading_lines

    for reading, line in zip(manifest.provenance.readings, reading_lines(manifest), strict=True):
        stderr_console().print(Text(line, "yellow" if reading.assumed else ""), soft_wrap=True, highlight=False)
