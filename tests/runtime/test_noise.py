"""What libraries print beside our output, and what they raise if they are there but cannot be loaded."""

from __future__ import annotations

import importlib
import io
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from vprm_runtime import EngineError, InputError, MissingExtraError, StepScorer
from vprm_runtime.extras import import_optional
from vprm_runtime.images.load import load_image
from vprm_runtime.prompt.panics import PanicError, caught_panics


def test_a_graph_that_cannot_be_opened_is_said_by_us_alone(
    demo_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    size = (bundle / "llm.onnx").stat().st_size
    (bundle / "llm.onnx").write_bytes(b"\xff" * size)
    with pytest.raises(EngineError, match=r"cannot open .*llm\.onnx"):
        StepScorer.open(bundle, "cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not features.check("libtiff"), reason="needs libtiff")
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_damaged_tiffs_write_nothing(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff writes its own lines to stderr; also if the caller opened the image."""
    generator, stream = random.Random(compression), io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "TIFF", compression=compression)
    refused = 0
    for number in range(60):
        content = bytearray(stream.getvalue())
        for _ in range(8):
            content[generator.randrange(8, len(content))] = generator.randrange(256)
        try:
            opened = Image.open(io.BytesIO(content)) if number % 2 else None
        except Exception:  # noqa: BLE001  what Pillow raises is the caller's
            continue
        try:
            load_image(bytes(content) if opened is None else opened)
        except InputError:
            refused += 1
    assert refused > 0
    assert capfd.readouterr() == ("", "")


def test_panics_are_errors_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """Other lines that are written meanwhile stay; other exceptions pass as they are."""
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(PanicError, match="called on None"), caught_panics():
        os.write(2, b"\nthread '<unnamed>' (123) panicked at src/lib.rs:1:2:\ncalled on None\n")
        os.write(2, b"note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n")
        os.write(2, b"another thread's line\n")
        raise panic("called on None")
    assert capfd.readouterr() == ("", "another thread's line\n")
    with caught_panics():
        os.write(2, b"thread it is\n")
    assert capfd.readouterr() == ("", "thread it is\n")
    with pytest.raises(KeyboardInterrupt), caught_panics():
        raise KeyboardInterrupt


def test_a_library_that_is_there_but_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if memory is short: to install the extra would not help."""
    assert import_optional("json", "it", "cpu").loads("1") == 1
    with pytest.raises(MissingExtraError, match=r"missing for it: run  pip install 'vprm\[cpu]'"):
        import_optional("no_such_module_anywhere", "it", "cpu")

    def fail(name: str, package: Any = None) -> Any:
        raise ImportError("libonnxruntime.so: failed to map segment from shared object")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(EngineError, match=r"onnxruntime is installed but cannot be loaded for it \(lib.*free memory"):
        import_optional("onnxruntime.capi", "it", "cpu")
