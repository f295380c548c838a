"""Calibration layer by layer: what it sees is what the whole model computes; files, resuming, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tests.support.fake_device import FakeDevice, fake_engine

from vprm_calibration.calibrate import CalibrationOptions, calibrate
from vprm_calibration.layer_graphs import LayeredGraph, opened_segment
from vprm_calibration.sequences import SequenceLimits, with_context
from vprm_calibration.statistics import collect_statistics, hessian_of, hidden_directory, stored_sequences
from vprm_export import ExportOptions, export_bundle
from vprm_export.precision.calibration_file import Calibration, hessian_block
from vprm_export.precision.linears import linear_names
from vprm_runtime import StepScorer
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Precision
from vprm_runtime.errors import InputError
from vprm_runtime.execution.probabilities import probabilities

QUESTION = "How high is the bar?"
RESPONSES = [["It is red.", "So 4."], ["It is 7 high.", "So 7."]]


@pytest.fixture(scope="module")
def bundle(random_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrate") / "fp32"
    export_bundle(random_checkpoint("qwen2"), path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": QUESTION, "responses": RESPONSES}))
    (folder / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def calibration(bundle: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    output = tmp_path_factory.mktemp("calibration") / "c.safetensors"
    options = CalibrationOptions(SequenceLimits(2, 1), sensitivity=("int8",), sensitivity_sequences=2)
    made = calibrate(bundle, rows, output, options)
    assert not output.with_name("c.safetensors.parts").exists()
    return made


def test_every_site_has_statistics_of_its_inputs(calibration: Calibration, bundle: Path) -> None:
    model = Bundle.open(bundle).manifest.model
    assert list(calibration.linears) == linear_names(model.layers)
    assert set(load_file(calibration.path)) == set(calibration.tensors)  # the format's own library reads the file
    for linear in calibration.linears:
        statistics = calibration.statistics(linear)
        width = len(statistics.absmax)
        assert statistics.mean_square.shape == (width,) and statistics.samples.shape[1] == width
        assert (statistics.absmax >= np.sqrt(statistics.mean_square) * 0.999).all()
        assert (np.abs(statistics.samples).max(axis=0) <= statistics.absmax).all()
        block = hessian_block(width)
        assert statistics.hessian.shape == (width // block, block, block)
        np.testing.assert_allclose(
            np.einsum("kii->", statistics.hessian) / width, 1, rtol=1e-4
        )  # of tokens of one size
        assert (np.linalg.eigvalsh(statistics.hessian) > -1e-4).all()
        assert statistics.token_absmax[-1] == statistics.absmax.max() == np.abs(statistics.samples).max()


def test_layers_in_turn_give_the_whole_models_scores(bundle: Path, rows: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    output = tmp_path / "c.safetensors"

    def stop(what: str, done: int, total: int) -> None:
        if what == "layers" and done == 1:
            raise StopError

    with pytest.raises(StopError):
        calibrate(bundle, rows, output, CalibrationOptions(SequenceLimits(1, 1)), stop)
    work = output.with_name("c.safetensors.parts")
    layered, model = LayeredGraph(Bundle.open(bundle)), Bundle.open(bundle).manifest.model
    collect_statistics(layered, model.kv_width, work, lambda what, done, total: None)
    rule = Bundle.open(bundle).manifest.score_rule
    result = StepScorer.open(bundle).score(str(rows.parent / "0.png"), QUESTION, RESPONSES, max_tiles=1)
    for sequence, candidate in zip(stored_sequences(work), result.candidates, strict=True):
        logits = np.load(hidden_directory(work, model.layers) / f"{sequence.stem}.npy")
        np.testing.assert_allclose(probabilities(logits, rule), [step.score for step in candidate.steps], atol=1e-5)


def test_an_interrupted_run_goes_on_and_gives_the_same_file(bundle: Path, rows: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    options = CalibrationOptions(SequenceLimits(1, 1))
    whole = calibrate(bundle, rows, tmp_path / "whole.safetensors", options)
    seen: list[str] = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "layers" and done == 2:
            raise StopError

    with pytest.raises(StopError):
        calibrate(bundle, rows, tmp_path / "parts.safetensors", options, stop)
    again = calibrate(bundle, rows, tmp_path / "parts.safetensors", options, lambda what, *_: seen.append(what))
    assert "sequences" not in seen
    assert again.sha256 == whole.sha256
    with pytest.raises(InputError, match="exists already"):
        calibrate(bundle, rows, tmp_path / "whole.safetensors", options)


def test_sensitive_linears_stay_in_floating_point(
    calibration: Calibration, random_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    errors = calibration.sensitivity("int8")
    assert set(errors) == set(calibration.linears) and all(0 < error < 0.2 for error in errors.values())
    checkpoint = random_checkpoint("qwen2")
    options = ExportOptions("int8", calibration=calibration.path, keep_high=2)
    manifest = export_bundle(checkpoint, tmp_path / "kept", options)
    quantisation = manifest.graphs.llm.quantisation
    assert quantisation is not None and quantisation.calibration_sha256 == calibration.sha256
    assert quantisation.kept_high == tuple(sorted(errors, key=lambda linear: -errors[linear])[:2])
    assert Bundle.open(tmp_path / "kept").manifest == manifest
    assert manifest.graphs.vision.precision == "fp32"


def test_what_does_not_fit_together_is_refused(
    calibration: Calibration, random_checkpoint: Callable[[str], Path], bundle: Path, rows: Path, tmp_path: Path
) -> None:
    checkpoint, made = random_checkpoint("qwen2"), tmp_path / "bundle"
    with pytest.raises(InputError, match="fp8 for cpu needs --calibration"):
        export_bundle(checkpoint, made, ExportOptions("fp8"))
    with pytest.raises(InputError, match="--sensitivity w4"):
        export_bundle(checkpoint, made, ExportOptions("w4", calibration=calibration.path, keep_high=1))
    with pytest.raises(InputError, match="not for fp16"):
        export_bundle(checkpoint, made, ExportOptions("fp16", calibration=calibration.path))
    with pytest.raises(InputError, match=r"no Linear 'layers\.9\.o'"):
        export_bundle(checkpoint, made, ExportOptions("int8", keep_high=("layers.9.o",)))
    with pytest.raises(InputError, match="no calibration file"):
        export_bundle(checkpoint, made, ExportOptions("int8", calibration=tmp_path / "absent"))
    shutil.copyfile(checkpoint / "model.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="safetensors file of another kind"):
        Calibration.open(tmp_path / "other.safetensors")
    header = calibration.path.read_bytes()
    (tmp_path / "old.safetensors").write_bytes(header.replace(b'format_version\\": 3', b'format_version\\": 2', 1))
    with pytest.raises(InputError, match="calibration format 2, this version reads 3: calibrate again"):
        Calibration.open(tmp_path / "old.safetensors")
    export_bundle(checkpoint, made, ExportOptions("w8"))
    with pytest.raises(InputError, match="exported as fp32 or fp16"):
        calibrate(made, rows, tmp_path / "c.safetensors")


def test_second_moments_are_of_tokens_scaled_to_one_size() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((50, 1536)).astype(np.float32)
    hessian = hessian_of(inputs * 10.0 ** rng.integers(-3, 4, (50, 1)).astype(np.float32))
    assert hessian.shape == (3, 512, 512)
    unit = inputs / np.sqrt(np.square(inputs).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(hessian[1], unit[:, 512:1024].T @ unit[:, 512:1024] / 50, atol=1e-4)


def test_blocks_of_second_moments_hold_whole_groups() -> None:
    assert [hessian_block(width) for width in (4096, 14336, 192, 1000, 11008, 48)] == [512, 512, 192, 200, 256, 48]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_sequences_of_a_device_are_those_of_the_host(
    random_checkpoint: Callable[[str], Path],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
) -> None:
    """`auto` may pick an engine whose image rows stay on a device."""
    export_bundle(random_checkpoint("qwen2"), tmp_path / "bundle", ExportOptions(precision))
    found = []
    for device in ("host", "fake"):
        if device == "fake":
            monkeypatch.setattr(
                "vprm_runtime.scorer.open_engine", lambda bundle, device, threads: fake_engine(bundle, FakeDevice())[0]
            )
        output, options = tmp_path / f"{device}.safetensors", CalibrationOptions(SequenceLimits(2))
        found.append(calibrate(tmp_path / "bundle", rows, output, options))
    for name, expected in load_file(found[0].path).items():
        np.testing.assert_allclose(load_file(found[1].path)[name], expected, rtol=5e-3, atol=1e-4)


def test_layers_run_on_the_device_that_is_named(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert LayeredGraph(opened, "auto").providers == LayeredGraph(opened, "tensorrt:1").providers
    assert LayeredGraph(opened, "cuda:1").providers == [
        ("CUDAExecutionProvider", {"device_id": 1}),
        "CPUExecutionProvider",
    ]
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        LayeredGraph(opened, "gpu")


def test_segments_read_the_bundles_weights_and_copy_none(bundle: Path, tmp_path: Path) -> None:
    layered = LayeredGraph(Bundle.open(bundle))
    with opened_segment(layered, [], [layered.starts[0]], bundle.parent):
        (weights,) = (bundle.parent / "segment").glob("*.data")
        assert weights.samefile(layered.weights_path)
    assert layered.weights_path.stat().st_nlink == 1


def test_segments_are_the_same_without_links(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise OSError("links across disks")

    layered = LayeredGraph(Bundle.open(bundle))
    tokens, kv_width = np.array([5, 6], np.int64), Bundle.open(bundle).manifest.model.kv_width
    embeds = np.zeros((0, Bundle.open(bundle).manifest.model.hidden_size), np.float32)
    stored = {
        "input_ids": tokens,
        "image_embeds": embeds,
        "position_ids": np.arange(2),
        "score_positions": np.array([1]),
    }
    feeds = with_context(stored, layered.layers, kv_width, layered.dtype)
    found = []
    for _ in range(2):
        with opened_segment(layered, [], [layered.starts[0]], tmp_path) as segment:
            found.append(segment.run(feeds)[0])
        monkeypatch.setattr("os.link", refused)
    np.testing.assert_array_equal(found[0], found[1])
