"""`vprm calibrate`: run rows through a floating-point bundle and note what its Linears see."""

import argparse
from pathlib import Path

from vprm_runtime.bundle.manifest import TARGETS
from vprm_runtime.cli.arguments import add_image_root, add_json
from vprm_runtime.cli.common import Subparsers, phase_progress, positive_int, print_json, print_stderr, resolve_bundle

_QUANTISED = ("int8", "w8", "w4", "fp8")


def register(subparsers: Subparsers) -> None:
    """Add the `calibrate` parser."""
    parser = subparsers.add_parser(
        "calibrate",
        help="collect the activation statistics that quantised exports want",
        description="Run rows through a bundle (fp32 or fp16) or checkpoint, layer by layer; goes on where it stopped.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="BUNDLE|CHECKPOINT",
        help="of a model (default: demo PRM)",
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="rows, jsonl or parquet (default: the demo's)")
    add_image_root(parser)
    parser.add_argument(
        "--device",
        default="auto",
        help="device that encodes the images; cuda, or cuda:1, runs the layers too (default: auto)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="calibration.safetensors")
    parser.add_argument("--max-rows", type=positive_int, default=32, metavar="N", help="rows to run (default: 32)")
    parser.add_argument(
        "--max-tiles", type=positive_int, metavar="N", help="tiles per image at most (default: bundle's)"
    )
    parser.add_argument(
        "--sensitivity", nargs="+", choices=_QUANTISED, default=[], metavar="P",
        help="measure each Linear's step-score error under these precisions too (for --keep-high)",
    )  # fmt: skip
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="whose recipes sensitivities are measured of")
    parser.add_argument(
        "--sensitivity-rows", type=positive_int, default=8, metavar="N", help="responses used for that (default: 8)"
    )
    add_json(parser)
    parser.set_defaults(run=run, extra="calibration")


def run(args: argparse.Namespace) -> int:
    """Calibrate. Returns the exit code."""
    from vprm_calibration.calibrate import CalibrationOptions, calibrate
    from vprm_calibration.sequences import SequenceLimits
    from vprm_export.hub import local_checkpoint
    from vprm_export.temporary_bundle import as_bundle

    limits = SequenceLimits(args.max_rows, args.max_tiles)
    options = CalibrationOptions(
        limits, tuple(args.sensitivity), args.target, args.sensitivity_rows, args.image_root, args.device
    )
    model = local_checkpoint(resolve_bundle(args.model), print_stderr)
    with phase_progress("calibrating") as advance, as_bundle(model) as bundle:
        calibration = calibrate(bundle, args.data or _demo_rows(args.max_rows), args.output, options, advance)
    left_out = calibration.provenance["left_out"]
    if left_out:
        text = f"{len(left_out)} rows were left out, the first is row {left_out[0]['row']}: {left_out[0]['reason']}"
        print_stderr(text)
    if args.json:
        print_json(
            {
                "file": str(args.output),
                "sha256": calibration.sha256,
                "sites": list(calibration.linears),
                "sensitivity": {name: calibration.sensitivity(name) for name in args.sensitivity},
                "provenance": dict(calibration.provenance),
            }
        )
    print_stderr(f"wrote {args.output}")
    return 0


def _demo_rows(rows: int) -> Path:
    from vprm_demo import calibration_rows

    return calibration_rows(rows)
