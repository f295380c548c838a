"""What quantisation does at a checkpoint's layer shapes: error of each Linear, sizes, export time and memory.

    vprm bench random-checkpoint slice --preset 8b-slice --layers 2 --vision-layers 1
    vprm bench shapes slice --full-layers 32 --work work

For checkpoints whose scores mean nothing (random weights at the real shapes). An error is |difference of outputs| /
|outputs| of one Linear, root mean square over tokens of rows that calibration has not seen, on evenly spaced outputs.
Each export runs in a process of its own, whose peak resident memory is the kernel's figure. Sizes are of the LLM's
graph and weights; at full depth, embeddings and the rest count once and a layer's weights as often as there are layers.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vprm_calibration.calibrate import CalibrationOptions, calibrate
from vprm_calibration.sensitivity import emulated_product
from vprm_calibration.sequences import SequenceLimits
from vprm_export.architecture import Architecture
from vprm_export.checkpoint import Checkpoint
from vprm_export.precision.calibration_file import Calibration
from vprm_export.precision.linears import ROLES, parse_linear_name
from vprm_export.precision.recipe import Recipe, recipe_for
from vprm_export.precision.smoothed_weights import Smoother
from vprm_export.weights import TensorReader
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Precision, Target
from vprm_runtime.cli.common import activity, print_json
from vprm_runtime.cli.progress import Say

_OUTPUTS = 256  # of each Linear
VARIANTS: tuple[tuple[Precision, Target], ...] = (
    ("int8", "cpu"), ("int8", "tensorrt"), ("w8", "cpu"), ("w4", "cpu"), ("fp8", "cpu"),
)  # fmt: skip


@dataclass(frozen=True)
class ExportFigures:
    """One export: its time, on the clock and on processors, the process's peak resident memory, and the LLM's size."""

    name: str
    seconds: float
    processor_seconds: float
    peak_bytes: int
    llm_bytes: int
    full_bytes: int  # at full depth


def run(args: argparse.Namespace) -> int:
    """Measure and print two tables as Markdown."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    with activity("shapes", "stages") as say:
        exports, errors = _measured(args, work, say)
    if args.json:
        print_json({"exports": [asdict(export) for export in exports], "relative_errors": errors})
    else:
        sys.stdout.write(markdown(exports, errors) + "\n")
    return 0


def _measured(
    args: argparse.Namespace, work: Path, say: Say
) -> tuple[list[ExportFigures], dict[str, dict[str, float]]]:
    from vprm_demo import calibration_rows, held_out_rows

    say("exporting to fp32 and fp16")
    exports = [exported(args.checkpoint, work / p, [p], args.full_layers) for p in ("fp32", "fp16")]
    options = CalibrationOptions(SequenceLimits(args.rows, max_tiles=1))
    files = [work / "calibration.safetensors", work / "unseen.safetensors"]
    for file, rows in zip(files, (calibration_rows(args.rows), held_out_rows(args.rows)), strict=True):
        if not file.exists():
            say("calibrating")
            calibrate(work / "fp32", rows, file, options)
    errors: dict[str, dict[str, float]] = {}
    for number, (precision, target) in enumerate(VARIANTS):
        say(f"{precision} for {target}", number, len(VARIANTS))
        recipe, name = recipe_for(precision, target), precision if target == "cpu" else f"{precision}, {target}"
        flags = [precision, "--target", target, "--calibration", str(files[0])]
        exports.append(exported(args.checkpoint, work / name.replace(", ", "-"), flags, args.full_layers))
        if recipe is not None:
            errors[name] = linear_errors(args.checkpoint, recipe, *map(Calibration.open, files))
    return exports, errors


def exported(checkpoint: Path, bundle: Path, flags: Sequence[str], full_layers: int) -> ExportFigures:
    """Run `vprm export` in a process of its own; `flags` begin with the precision. Raises CalledProcessError."""
    command = [
        sys.executable,
        "-m",
        "vprm_runtime.cli.main",
        "export",
        str(checkpoint),
        str(bundle),
        "--precision",
        *flags,
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()  # it clears up what it began
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - started
    opened = Bundle.open(bundle)
    llm_bytes = opened.manifest.llm_bytes
    initializers = ir.load(opened.llm_path).graph.initializers.values()
    tensors = [value.const_value for value in initializers if value.const_value is not None]
    layer_bytes = sum(tensor.nbytes for tensor in tensors if ".layers.0." in str(tensor.name))
    full_bytes = llm_bytes + (full_layers - opened.manifest.model.layers) * layer_bytes
    processor_seconds = usage.ru_utime + usage.ru_stime
    return ExportFigures(bundle.name, seconds, processor_seconds, usage.ru_maxrss * 1024, llm_bytes, full_bytes)


def linear_errors(
    checkpoint_path: Path, recipe: Recipe, calibration: Calibration, unseen: Calibration
) -> dict[str, float]:
    """Relative error of outputs by Linear, on the sampled tokens of a calibration that it was not smoothed with."""
    checkpoint = Checkpoint.open(checkpoint_path)
    llm = Architecture.from_config(checkpoint.config, checkpoint.path).llm
    smoother = Smoother(llm, TensorReader(checkpoint), calibration, recipe)
    errors = {}
    for linear in calibration.linears:
        layer, role = parse_linear_name(linear)
        inputs, squares = unseen.statistics(linear).samples, []
        for weight in smoother.linears(layer, role):
            rows = weight.load()[:: max(1, weight.shape[0] // _OUTPUTS)].astype(np.float32)
            wanted = inputs @ rows.T
            smoothed, hessian = smoother.linear(layer, role), smoother.hessian(layer, role)
            difference = emulated_product(inputs, rows, smoothed, recipe.of(role), hessian) - wanted
            squares.append(np.square(difference).sum(axis=1) / np.square(wanted).sum(axis=1))
        errors[linear] = float(np.sqrt(np.mean(squares)))
    return errors


def markdown(exports: Sequence[ExportFigures], errors: dict[str, dict[str, float]]) -> str:
    """Both tables; errors as the root mean square over layers of each role."""
    half = next(export for export in exports if export.name == "fp16")
    lines = [
        "| export | seconds | of processors | peak memory, GB | LLM, GB | of fp16 | at full depth, GB | of fp16 |",
        "|---" * 8 + "|",
    ]
    for e in exports:
        sizes = (
            f"{e.llm_bytes / 1e9:.3f} | {e.llm_bytes / half.llm_bytes:.3f} | "
            f"{e.full_bytes / 1e9:.2f} | {e.full_bytes / half.full_bytes:.3f}"
        )
        lines.append(
            f"| `{e.name}` | {e.seconds:.0f} | {e.processor_seconds:.0f} | {e.peak_bytes / 1e9:.2f} | {sizes} |"
        )
    lines += ["", f"| recipe | {' | '.join(ROLES)} |", "|---" * (len(ROLES) + 1) + "|"]
    for name, by_linear in errors.items():
        cells = []
        for role in ROLES:
            squares = [error**2 for linear, error in by_linear.items() if parse_linear_name(linear)[1] == role]
            cells.append(f"{np.sqrt(np.mean(squares)):.4f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
