"""ONNX Runtime on CUDA without a device: its sizes and padding on host memory, where its nodes run, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tests.support.fake_device import FakeDevice, engine_over

from vprm_runtime import Bundle, EngineError, StepScorer, UnsupportedError
from vprm_runtime.engines import select
from vprm_runtime.engines.cuda import onnxruntime as ort_cuda
from vprm_runtime.engines.cuda.blocks import padded_block
from vprm_runtime.engines.cuda.limits import Limits
from vprm_runtime.engines.cuda.onnxruntime import (
    PROVIDER,
    TOTAL_MULTIPLE,
    check_placement,
    graph_profiles,
    nodes_on_cpu,
)
from vprm_runtime.engines.cuda.protocol import DeviceFacts
from vprm_runtime.execution.blocks import causal_block

RESPONSES = ["One.\n\nTwo.", "Three.", "Four.\n\nFive.\n\nSix.", "Seven."]
has_cuda = PROVIDER in onnxruntime.get_available_providers()


def test_equals_the_cpu_engine(fp16_bundle: Bundle, make_image: Callable[..., Image.Image]) -> None:
    """With the sizes and the padding of ONNX Runtime on CUDA, after prefixes of every length modulo the padding."""
    plain = StepScorer.open(fp16_bundle, "cpu")
    engine, llm = engine_over(fp16_bundle, FakeDevice(), *graph_profiles(fp16_bundle.manifest), TOTAL_MULTIPLE)
    padded = plain.with_engine(engine)
    assert padded.max_block_tokens == 2048
    for more in range(TOTAL_MULTIPLE):
        question = "How many?" + " Now" * more
        results = [scorer.score([make_image(200, 90)], question, RESPONSES) for scorer in (plain, padded)]
        expected, found = ([step.score for one in result.candidates for step in one.steps] for result in results)
        np.testing.assert_allclose(found, expected, atol=2e-3)
    totals = {shapes["attention_mask"][1] for _, shapes in llm.runs}
    assert len(totals) > 1
    assert all(total % TOTAL_MULTIPLE == 0 for total in totals)


def test_padding_changes_nothing_before_it() -> None:
    block = causal_block([5, 6, 7], 6, np.zeros((0, 4), np.float16), [2])
    padded = padded_block(block, 8, padding_id=9)
    assert padded.input_ids.tolist() == [5, 6, 7, *[9] * 7]
    assert padded.position_ids.tolist() == [6, 7, 8, *[0] * 7]
    assert padded.score_positions.tolist() == [2]
    np.testing.assert_array_equal(padded.attention_mask[:3, :9], block.attention_mask)
    assert not padded.attention_mask[:3, 9:].any()
    np.testing.assert_array_equal(padded.attention_mask[3:], np.eye(7, 16, 9, dtype=np.bool_))
    assert padded_block(block, 3, padding_id=9) is block


def test_nodes_left_to_the_cpu_are_seen(fp16_bundle: Bundle) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(fp16_bundle.llm_path), options, providers=["CPUExecutionProvider"])
    on_cpu = nodes_on_cpu(session)
    assert on_cpu["Attention"] == fp16_bundle.manifest.model.layers
    with pytest.raises(UnsupportedError, match=r"no CUDA kernel for nodes of llm.onnx \(3 of Attention, \d+ of MatMul"):
        check_placement(on_cpu, "llm.onnx", "1.24.0")
    check_placement({"Shape": 1, "Slice": 1, "Concat": 1}, "vision.onnx", "1.31.1")


def test_memory_is_planned_from_the_manifest(fp16_bundle: Bundle) -> None:
    manifest = fp16_bundle.manifest
    limits = Limits.of(*graph_profiles(manifest))
    plan = ort_cuda.memory_budget(manifest, DeviceFacts("NVIDIA L4", 89, 1), 10**9, limits)
    weights = [path.stat().st_size for path in fp16_bundle.path.glob("*.onnx.data")]
    assert plan.weights_bytes == sum(weights) > 0
    assert plan.cache_row_bytes == 3 * 2 * 32 * 2
    plan.check_engine(4096)
    with pytest.raises(EngineError, match="Use a bundle of a lower precision"):
        ort_cuda.memory_budget(manifest, DeviceFacts("NVIDIA L4", 89, 1), 10**8, limits).check_engine()


@pytest.mark.skipif(has_cuda, reason="onnxruntime has CUDA here")
def test_without_cuda_it_says_what_to_install(fp16_bundle: Bundle) -> None:
    with pytest.raises(
        EngineError, match=r"has no CUDA: run  pip uninstall onnxruntime  and  pip install 'vprm\[cuda\]'"
    ):
        ort_cuda.open_ort_cuda(fp16_bundle)


@pytest.mark.skipif(has_cuda, reason="onnxruntime has CUDA here")
def test_auto_does_not_hide_a_device_that_cannot_be_used(fp16_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "is_device_present", lambda: True)
    monkeypatch.setattr(select, "is_cuda_installed", lambda: True)
    with pytest.raises(EngineError, match="has no CUDA"):
        select.open_engine(fp16_bundle)


def test_libraries_are_loaded_without_a_word_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    ort_cuda._load_cuda_libraries(SimpleNamespace(preload_dlls=lambda: print("Failed to load libcudnn.so.9")))
    assert capsys.readouterr().out == ""
