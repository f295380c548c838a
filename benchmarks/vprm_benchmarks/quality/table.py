"""One command for the table in docs/quantisation.md: every recipe of a checkpoint against its fp32 bundle, and peers.

    vprm bench table [--checkpoint DIR] [--rows 1000] [--best-of-n 200] [--plant] [--json]

Calibrates on the demo's calibration rows (those of training's looks), measures on its held-out rows. With --plant the
checkpoint first gets outlier channels that leave its function as it is.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from vprm_benchmarks.quality.api import QualityOptions, measure_quality
from vprm_benchmarks.quality.outliers import plant_outliers
from vprm_benchmarks.quality.peers import (
    Quantize,
    calibration_feeds,
    has_modelopt,
    modelopt_int8,
    ort_dynamic,
    ort_static,
    peer_bundle,
)
from vprm_benchmarks.quality.report import QualityReport
from vprm_calibration.calibrate import CalibrationOptions, calibrate
from vprm_calibration.sequences import SequenceLimits
from vprm_export import ExportOptions, export_bundle
from vprm_export.hub import local_checkpoint
from vprm_runtime import native
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Precision, Target
from vprm_runtime.cli.common import RowBar, activity, print_json, print_stderr
from vprm_runtime.cli.progress import Say, say_nothing
from vprm_runtime.datasets import open_rows


@dataclass(frozen=True)
class Variant:
    """One row of the table that is ours."""

    name: str
    precision: Precision
    target: Target = "cpu"
    calibrated: bool = True
    keep_high: int = 0
    vision: Precision | None = None


VARIANTS = (
    Variant("fp16", "fp16", calibrated=False),
    Variant("bf16, cpu-native", "bf16", "cpu-native", calibrated=False),
    Variant("int8", "int8"),
    Variant("int8, cpu-native", "int8", "cpu-native"),
    Variant("int8, uncalibrated", "int8", calibrated=False),
    Variant("w8", "w8"),
    Variant("w4", "w4"),
    Variant("w8, cpu-native", "w8", "cpu-native"),
    Variant("w4, cpu-native", "w4", "cpu-native"),
    Variant("w4, 2 Linears in float16", "w4", keep_high=2),
    Variant("w4, uncalibrated", "w4", calibrated=False),
    Variant("fp8", "fp8"),
    Variant("int8 for TensorRT", "int8", "tensorrt"),
    Variant("w4 for TensorRT", "w4", "tensorrt"),
    Variant("int8, vision int8", "int8", vision="int8"),
    Variant("int8, vision int8, cpu-native", "int8", "cpu-native", vision="int8"),
    Variant("vision int8", "fp32", calibrated=False, vision="int8"),
    Variant("vision w8", "fp32", calibrated=False, vision="w8"),
)
PEERS: dict[str, Quantize] = {
    "onnxruntime dynamic, per tensor": ort_dynamic,
    "onnxruntime dynamic, weights per channel": partial(ort_dynamic, per_channel=True),
    "onnxruntime static": ort_static,
    "nvidia-modelopt int8": modelopt_int8,
}


def run(args: argparse.Namespace) -> int:
    """Measure and print the table as Markdown; exit code 1 if one of the calibrated recipes is over budget."""
    from vprm_demo import best_of_n_rows, calibration_rows, checkpoint_dir, held_out_rows

    with TemporaryDirectory(prefix="vprm-table-") as directory:
        work, checkpoint = Path(directory), local_checkpoint(args.checkpoint or checkpoint_dir(), print_stderr)
        if args.plant:
            checkpoint = plant_outliers(checkpoint, work / "planted")
        peers = [name for name in PEERS if PEERS[name] is not modelopt_int8 or has_modelopt()]
        usable = [variant.name for variant in VARIANTS if variant.target != "cpu-native" or native.level()]
        names = args.only or usable + peers
        rows, count = calibration_rows(args.calibration_rows), args.calibration_rows
        with activity("table") as say:
            bundles = make_bundles(checkpoint, work, rows, count, names, say)
        data = (held_out_rows(args.rows), *((best_of_n_rows(args.best_of_n),) if args.best_of_n else ()))
        with RowBar("comparing") as bar:
            reports = measure_quality(
                {name: bundles[name] for name in names},
                bundles["fp32"],
                QualityOptions(data, threads=args.threads),
                bar.advance,
            )
        sizes = {name: Bundle.open(path).manifest.llm_bytes for name, path in bundles.items()}
    if args.json:
        print_json([report.to_dict() for report in reports.values()])
    else:
        sys.stdout.write(markdown(reports, sizes) + "\n")
    required = [variant.name for variant in VARIANTS if variant.calibrated]
    return 0 if all(reports[name].passed for name in required if name in reports) else 1


def make_bundles(
    checkpoint: Path, work: Path, rows: Path, max_rows: int, names: Sequence[str], say: Say = say_nothing
) -> dict[str, Path]:
    """The fp32 and fp16 bundles and those of the named rows, calibrated on `rows`."""
    bundles = {"fp32": work / "fp32", "fp16": work / "fp16"}
    export_bundle(checkpoint, work / "fp32", ExportOptions("fp32"))
    export_bundle(checkpoint, work / "fp16", ExportOptions("fp16"))
    wanted = [variant for variant in VARIANTS if variant.name in names]
    sensitivity = tuple(dict.fromkeys(variant.precision for variant in wanted if variant.keep_high))
    calibration = work / "calibration.safetensors"
    say("calibrating")
    if any(variant.calibrated for variant in wanted):
        calibrate(work / "fp32", rows, calibration, CalibrationOptions(SequenceLimits(max_rows), sensitivity))
    for number, variant in enumerate(wanted):
        if variant.precision != "fp16":
            say(f"exporting {variant.name}", number, len(wanted))
            bundles[variant.name] = work / f"variant-{number}"
            options = ExportOptions(
                variant.precision,
                vision_precision=variant.vision,
                target=variant.target,
                calibration=calibration if variant.calibrated else None,
                keep_high=variant.keep_high,
            )
            export_bundle(checkpoint, bundles[variant.name], options)
    peers = [name for name in names if name in PEERS]
    feeds = calibration_feeds(Bundle.open(work / "fp32"), open_rows(rows), SequenceLimits(max_rows)) if peers else []
    for number, name in enumerate(peers):
        say(f"quantising with {name}", number, len(peers))
        bundles[name] = peer_bundle(work / "fp32", work / f"peer-{number}", PEERS[name], feeds)
    return bundles


def markdown(reports: Mapping[str, QualityReport], sizes: Mapping[str, int]) -> str:
    """The table."""
    header = ("recipe", "mean error", "p99", "max", "macro F1 change", "flips outside", "flips", "LLM size", "budget")
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    for name, report in reports.items():
        figures = report.figures
        f1 = "" if figures.f1_change is None else f"{figures.f1_change:.4f}"
        lines.append(
            f"{name} | {figures.errors.mean:.5f} | {figures.errors.p99:.4f} | {figures.errors.max:.4f} | {f1} | "
            f"{figures.choices.flips_outside:.2%} | {len(figures.choices.flip_margins)} of {figures.choices.choices} | "
            f"{sizes[name] / sizes['fp16']:.3f} | {'pass' if report.passed else 'over'}"
        )
    return "\n".join(f"| {line} |" for line in lines)
