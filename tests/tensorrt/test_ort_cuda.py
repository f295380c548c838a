"""The ONNX Runtime CUDA engine's own logic, on host memory: binding by address, appending, growing, row slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from vprm_runtime import Bundle, EngineError, StepScorer
from vprm_runtime.engines.ort_cuda import PROVIDER, OrtCudaEngine, OrtRows
from vprm_runtime.packing import causal_block

RESPONSES = ["One.\n\nTwo.", "Three.", "Four.\n\nFive.\n\nSix.", "Seven."]


def test_equals_the_cpu_engine(fp16_bundle: Bundle, picture: Callable[..., Image.Image]) -> None:
    plain = StepScorer.open(fp16_bundle, "cpu")
    bound = StepScorer(plain.manifest, plain.prompts, OrtCudaEngine(fp16_bundle, device_type="cpu"))
    results = [scorer.score([picture(200, 90)], "How many?", RESPONSES) for scorer in (plain, bound)]
    expected, found = ([[step.score for step in one.steps] for one in result.candidates] for result in results)
    assert found == expected
    assert "CPU 0, vision fp16, LLM fp16" in bound.engine.description


def test_cache_grows_and_truncates(fp16_bundle: Bundle) -> None:
    engine = OrtCudaEngine(fp16_bundle, device_type="cpu")
    hidden = fp16_bundle.manifest.model.hidden_size
    none = np.zeros((0, hidden), np.float16)
    whole = engine.forward(causal_block(range(5, 25), 0, none, [19]), engine.new_cache(64))
    cache = engine.new_cache(1)
    assert engine.forward(causal_block(range(5, 15), 0, none), cache).shape == (0, 2)
    engine.forward(causal_block(range(90, 95), 10, none), cache)
    cache.truncate(10)
    parts = engine.forward(causal_block(range(15, 25), 10, none, [9]), cache)
    np.testing.assert_allclose(parts, whole, atol=1e-2)
    with pytest.raises(ValueError, match="cannot truncate 20 cached rows to 21"):
        cache.truncate(21)
    with pytest.raises(TypeError, match="needs a cache from its own new_cache"):
        engine.forward(causal_block([1], 0, none), object())  # type: ignore[arg-type]


def test_rows_stay_where_they_are(fp16_bundle: Bundle) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), np.uint8)
    rows = OrtCudaEngine(fp16_bundle, device_type="cpu").encode_tiles(tiles)
    assert isinstance(rows, OrtRows)
    assert rows[5:9][1:2].address == rows.address + 6 * rows.shape[1] * 2
    np.testing.assert_array_equal(np.asarray(rows[5:9]), np.asarray(rows)[5:9])
    with pytest.raises(ValueError, match="in steps of 1"):
        rows[::2]


@pytest.mark.skipif(PROVIDER in onnxruntime.get_available_providers(), reason="onnxruntime has CUDA here")
def test_without_cuda_it_says_what_to_install(fp16_bundle: Bundle) -> None:
    with pytest.raises(
        EngineError, match=r"has no CUDA: run  pip uninstall onnxruntime  and  pip install 'vprm\[cuda\]'"
    ):
        OrtCudaEngine(fp16_bundle)
