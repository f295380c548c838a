"""Outlier channels that leave the function as it is: int8 with calibration survives them, a scale a tensor does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vprm_benchmarks.quality.api import QualityOptions, measure_quality
from vprm_benchmarks.quality.budget import BUDGETS
from vprm_benchmarks.quality.outliers import plant_outliers
from vprm_benchmarks.quality.peers import calibration_feeds, ort_dynamic, ort_static, peer_bundle
from vprm_benchmarks.quality.report import QualityReport
from vprm_calibration.calibrate import CalibrationOptions, calibrate
from vprm_calibration.sequences import SequenceLimits
from vprm_demo import best_of_n_rows, calibration_rows, checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.datasets import open_rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:onnx.*")
ROWS = 12


@pytest.fixture(scope="module")
def reports(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, QualityReport]]:
    """The planted demo PRM in several precisions, each against the demo PRM as it is."""
    work = tmp_path_factory.mktemp("outliers")
    planted = plant_outliers(checkpoint_dir(), work / "planted")
    export_bundle(planted, work / "fp32")
    calibration = work / "calibration.safetensors"
    calibrate(work / "fp32", calibration_rows(24), calibration, CalibrationOptions(SequenceLimits(24)))
    bundles = {"fp32": work / "fp32"}
    for precision in ("int8", "w8", "w4"):
        bundles[precision] = work / precision
        export_bundle(planted, bundles[precision], ExportOptions(precision, calibration=calibration))  # type: ignore[arg-type]
    bundles["int8, uncalibrated"] = work / "plain"
    export_bundle(planted, work / "plain", ExportOptions("int8"))
    bundles["a scale a tensor"] = peer_bundle(work / "fp32", work / "peer", ort_dynamic)
    export_bundle(planted, work / "static", ExportOptions("int8", target="tensorrt", calibration=calibration))
    bundles["int8 for TensorRT"] = work / "static"
    feeds = calibration_feeds(Bundle.open(work / "fp32"), open_rows(calibration_rows(24)), SequenceLimits(4))
    bundles["onnxruntime static"] = peer_bundle(work / "fp32", work / "static-peer", ort_static, feeds)
    yield measure_quality(bundles, demo_bundle, QualityOptions((best_of_n_rows(ROWS),), threads=1))


def test_planting_leaves_the_function_as_it_is(reports: dict[str, QualityReport]) -> None:
    assert reports["fp32"].figures.errors.max < 1e-4


@pytest.mark.parametrize("name", ["int8", "w8", "w4", "int8 for TensorRT"])
def test_calibrated_precisions_stay_within_the_budget(reports: dict[str, QualityReport], name: str) -> None:
    report = reports[name]
    assert report.figures.errors.mean <= BUDGETS[report.precision].mean_error  # type: ignore[index]
    assert report.figures.choices.flips_outside == 0


def test_without_smoothing_outliers_are_felt(reports: dict[str, QualityReport]) -> None:
    assert reports["int8, uncalibrated"].figures.errors.mean > 2 * reports["int8"].figures.errors.mean


@pytest.mark.parametrize("peer", ["a scale a tensor", "onnxruntime static"])
def test_one_scale_a_tensor_fails(reports: dict[str, QualityReport], peer: str) -> None:
    report = reports[peer]
    assert report.figures.errors.mean > 3 * BUDGETS["int8"].mean_error
    assert not report.passed


def test_errors_by_layer_grow_from_nothing(reports: dict[str, QualityReport]) -> None:
    profile = reports["int8"].profile
    assert profile is not None and all(0 < error < 0.2 for error in profile)
    exact = reports["fp32"].profile
    assert exact is not None and max(exact) < 1e-4
