"""Bundles that share a vision encoder: each image is encoded once, and no score is other than alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.support.fake_device import FakeDevice, fake_engine

from vprm_benchmarks.quality.api import QualityOptions, measure_quality
from vprm_benchmarks.quality.compare import share_vision
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, StepScorer
from vprm_runtime.engines import Engine

RESPONSES = ["One.\n\nTwo.", "Three."]


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One vision graph three times, before LLM graphs that take float32, float16 and float16."""
    folder = tmp_path_factory.mktemp("sharing")
    options = {"fp32": ExportOptions("fp32"), "fp16": ExportOptions("fp16", "fp32"), "w8": ExportOptions("w8", "fp32")}
    options["w8, tensorrt"] = ExportOptions("w8", "fp32", target="tensorrt")
    for name, chosen in options.items():
        export_bundle(checkpoint, folder / name, chosen)
    opened = {name: Bundle.open(folder / name) for name in options}
    assert opened["w8, tensorrt"].manifest.graphs.llm.io_dtype == "float16"
    vision = [bundle.manifest.files_of(bundle.manifest.graphs.vision) for bundle in opened.values()]
    assert all(files == vision[0] for files in vision)
    return opened


def on_one_device(bundles: dict[str, Bundle]) -> dict[str, Engine]:
    device = FakeDevice()
    return {name: fake_engine(bundle, device)[0] for name, bundle in bundles.items()}


def on_devices(bundles: dict[str, Bundle]) -> dict[str, Engine]:
    return {name: fake_engine(bundle, FakeDevice())[0] for name, bundle in bundles.items()}


def on_the_host(bundles: dict[str, Bundle]) -> dict[str, Engine]:
    return {name: StepScorer.open(bundle, "cpu").engine for name, bundle in bundles.items()}


@pytest.mark.parametrize("engines", [on_the_host, on_one_device, on_devices])
def test_shared_rows_change_no_score(
    bundles: dict[str, Bundle], engines: Callable[..., dict[str, Engine]], make_image: Callable[..., Image.Image]
) -> None:
    made = engines(bundles)
    scorers = {name: StepScorer.open(bundle, engine=made[name]) for name, bundle in bundles.items()}
    alone = [scorer.score(make_image(), "How many?", RESPONSES) for scorer in scorers.values()]
    shared = share_vision([(bundles[name], scorer) for name, scorer in scorers.items()])
    assert [scorer.score(make_image(), "How many?", RESPONSES) for scorer in shared] == alone


@pytest.mark.parametrize("engines", [on_the_host, on_devices])
def test_quality_of_bundles_with_another_llm_type(
    bundles: dict[str, Bundle],
    engines: Callable[..., dict[str, Engine]],
    make_image: Callable[..., Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = {bundles[name].path: engine for name, engine in engines(bundles).items()}
    monkeypatch.setattr("vprm_runtime.scorer.open_engine", lambda bundle, device, threads: made[bundle.path])
    make_image().save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "How many?", "responses": RESPONSES}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    others = {name: bundle.path for name, bundle in bundles.items() if name != "fp32"}
    reports = measure_quality(others, bundles["fp32"].path, QualityOptions((tmp_path / "rows.jsonl",)))
    assert list(reports) == list(others)
    assert reports["fp16"].figures.errors.max < 0.01
    assert reports["w8"].figures.errors.max < 0.05
