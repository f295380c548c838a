"""Bundles that are damaged, wrong or none: an error that says which and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vprm_runtime import BundleError, StepScorer
from vprm_runtime.bundle.bundle import Bundle


def test_bundles_that_are_damaged(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    Bundle.open(bundle).verify()
    data = bundle / "llm.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError, match=r"llm\.onnx\.data"):
        Bundle.open(bundle).verify()
    data.write_bytes(content[:-1])
    with pytest.raises(BundleError, match="incomplete or damaged"):
        StepScorer.open(bundle)
    data.unlink()
    with pytest.raises(BundleError, match="missing"):
        StepScorer.open(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(schema_version=99), "schema_version 99"),
        (lambda manifest: manifest.pop("tiling"), "tiling"),
        (lambda manifest: manifest.update(extra=1), "extra"),
        (lambda manifest: manifest["model"].update(layers="3"), "layers is '3'"),
        (lambda manifest: manifest["tiling"].update(use_thumbnail=1), "use_thumbnail"),
        (lambda manifest: manifest["files"].update({"../secret": {"size_bytes": 1, "sha256": ""}}), "outside"),
    ],
)
def test_manifests_that_are_wrong(
    demo_bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_directories_that_are_no_bundle(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="make one with  vprm "):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="is a checkpoint, not a bundle"):
        Bundle.open(random_checkpoint("internlm2"))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        Bundle.open(tmp_path)
