"""Figures at a checkpoint's shapes: errors in the order of the recipes' bits, sizes from what was exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vprm_benchmarks.quality import shapes
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.cli.main import main


def test_errors_sizes_and_memory_of_a_random_checkpoint(
    random_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shapes, "VARIANTS", (("int8", "cpu"), ("w4", "cpu")))
    work = tmp_path / "work"
    arguments = [str(random_checkpoint("internlm2")), "--work", str(work), "--rows", "2", "--full-layers", "30"]
    assert main(["bench", "shapes", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    errors = document["relative_errors"]
    assert set(errors["int8"]) == set(errors["w4"]) and len(errors["int8"]) == 12
    assert all(0 < error < 0.03 for error in errors["int8"].values())
    assert all(error > errors["int8"][linear] for linear, error in errors["w4"].items() if not linear.endswith("qkv"))
    exports = {export["name"]: export for export in document["exports"]}
    assert list(exports) == ["fp32", "fp16", "int8", "w4"]
    files = Bundle.open(work / "fp16").manifest.files
    assert exports["fp16"]["llm_bytes"] == sum(
        info.size_bytes for name, info in files.items() if name.startswith("llm")
    )
    layer_bytes = (exports["fp16"]["full_bytes"] - exports["fp16"]["llm_bytes"]) / 27
    parameters = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 128  # a layer's Linears at test width
    assert layer_bytes == 2 * parameters + 4 * 2 * 64  # float16 Linears, float32 norms
    assert exports["w4"]["full_bytes"] < exports["int8"]["full_bytes"] < exports["fp16"]["full_bytes"]
    assert all(export["peak_bytes"] > 1e7 for export in exports.values())
    figures = [shapes.ExportFigures(**export) for export in document["exports"]]
    assert "| `int8` |" in shapes.markdown(figures, errors)
