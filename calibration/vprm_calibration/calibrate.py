"""`calibrate`: a floating-point bundle and rows in, calibration.safetensors out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from vprm_calibration.layer_graphs import LayeredGraph
from vprm_calibration.sensitivity import measure_sensitivity
from vprm_calibration.sequences import Rows, SequenceLimits, feeds_of_rows
from vprm_calibration.statistics import (
    Progress,
    collect_statistics,
    mark_started,
    read_statistics,
    start_or_resume,
)
from vprm_calibration.vision_engine import VisionEngine
from vprm_export.precision.calibration_file import Calibration, calibration_metadata
from vprm_export.precision.recipe import Recipe, recipe_for
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Precision, Target
from vprm_runtime.datasets import BadRow, open_rows
from vprm_runtime.datasets.missing_images import check_image_paths
from vprm_runtime.datasets.row import Row
from vprm_runtime.errors import InputError
from vprm_runtime.files import clear_parts, parts_folder, whole_file, write_whole
from vprm_runtime.scorer import StepScorer

_LEFT_OUT_NAME = "left_out.json"
_TOOLS = ("vprm", "numpy", "onnxruntime", "onnx-ir")


@dataclass(frozen=True)
class CalibrationOptions:
    """How much of the rows to run, and which precisions' sensitivities to measure, on how many sequences.

    `image_root`: where relative image paths start (None: beside the rows' file). `device` encodes the images, and with
    "cuda" runs the layers.
    """

    limits: SequenceLimits = field(default_factory=lambda: SequenceLimits(max_rows=32))
    sensitivity: tuple[Precision, ...] = ()
    target: Target = "cpu"
    sensitivity_sequences: int = 8
    image_root: Path | None = None
    device: str = "auto"


def calibrate(
    bundle_path: Path,
    data: Path | Rows,
    output: Path,
    options: CalibrationOptions = CalibrationOptions(),
    progress: Progress = lambda what, done, total: None,
) -> Calibration:
    """Collect statistics of `bundle_path` (fp32 or fp16) over the rows in `data`, and write `output`.

    Goes on where an interrupted run with the same bundle, rows and options stopped: its state is beside `output`, in
    `OUTPUT.parts`. Raises InputError on rows or a bundle that cannot be used.
    """
    work = parts_folder(output)
    if output.exists():
        clear_parts(work, "calibrate")  # of a run that was killed while it cleared up
        raise InputError(f"{output} exists already: remove it or choose another name")
    recipes = [_recipe(precision, options.target) for precision in options.sensitivity]
    bundle = Bundle.open(bundle_path)
    rows = open_rows(data, options.image_root) if isinstance(data, Path) else data
    layered = LayeredGraph(bundle, options.device)
    provenance = _provenance(bundle, rows.fingerprint, options)
    if not start_or_resume(work, provenance):
        check_image_paths(islice(rows, options.limits.max_rows))
        engine = VisionEngine(bundle) if options.device in ("auto", "cpu") else None
        scorer = StepScorer.open(bundle, options.device, engine=engine)
        left_out: list[dict[str, Any]] = []
        total = min(rows.total, options.limits.max_rows)

        def note(row: Row | BadRow, reason: str) -> None:
            left_out.append({"id": row.id, "row": row.number, "reason": reason})

        for number, feeds in enumerate(feeds_of_rows(scorer, rows, options.limits, note)):
            np.savez(work / f"sequence-{number:05d}.npz", **feeds)  # type: ignore[arg-type]
            progress("sequences", min(number + 1, total), total)
        write_whole(work / _LEFT_OUT_NAME, json.dumps(left_out).encode())
        mark_started(work, provenance)
    kv_width = bundle.manifest.model.kv_width
    files = collect_statistics(layered, kv_width, work, progress)
    tensors: dict[str, NDArray[Any]] = {}
    for linear, file in files.items():
        tensors |= read_statistics(file, linear).tensors(linear)
    for recipe in recipes:
        errors = measure_sensitivity(layered, bundle, work, files, recipe, options.sensitivity_sequences, progress)
        tensors[f"sensitivity.{recipe.precision}"] = np.array(
            [errors[linear] for linear in layered.linears], np.float32
        )
    missing = json.loads((work / _LEFT_OUT_NAME).read_text("utf-8"))
    _write(output, tensors, calibration_metadata(list(layered.linears), {**provenance, "left_out": missing}))
    clear_parts(work, "calibrate")
    return Calibration.open(output)


def _recipe(precision: Precision, target: Target) -> Recipe:
    recipe = recipe_for(precision, target)
    if recipe is None:
        raise InputError(
            f"--sensitivity {precision}: floating-point precisions quantise nothing; use int8, w8, w4 or fp8"
        )
    return recipe


def _provenance(bundle: Bundle, rows_fingerprint: str, options: CalibrationOptions) -> dict[str, Any]:
    manifest = bundle.manifest
    provenance = {
        "checkpoint": manifest.provenance.checkpoint,
        "config_sha256": manifest.provenance.config_sha256,
        "bundle": {name: info.sha256 for name, info in manifest.files_of(manifest.graphs.llm).items()},
        "rows": rows_fingerprint,
        "options": {**asdict(options), "image_root": str(options.image_root and options.image_root.resolve())},
        "tools": {tool: version(tool) for tool in _TOOLS},
    }
    normalised: dict[str, Any] = json.loads(json.dumps(provenance))
    return normalised


def _write(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        values = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
        save_file(values, temporary, metadata)
