"""What holds for every engine, on the host and on a (fake) device: image rows are checked, caches and engines end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.fake_device import FakeDevice, fake_engine

from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, EngineError, InputError, StepScorer
from vprm_runtime.engines import select
from vprm_runtime.engines.base import Block, Engine, EngineProxy, ImageRows
from vprm_runtime.engines.cuda.device import CudaDevice
from vprm_runtime.engines.host.onnxruntime import OrtGraph
from vprm_runtime.execution.blocks import causal_block

ENGINES: dict[str, Callable[[Bundle], Engine]] = {
    "host": lambda bundle: StepScorer.open(bundle, "cpu").engine,
    "device": lambda bundle: fake_engine(bundle, FakeDevice())[0],
    "proxy": lambda bundle: EngineProxy(fake_engine(bundle, FakeDevice())[0]),
}


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, fp16_bundle: Bundle) -> Engine:
    return ENGINES[request.param](fp16_bundle)


@pytest.fixture(scope="module")
def mixed_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The fp32 vision graph before an LLM graph in float16."""
    path = tmp_path_factory.mktemp("mixed") / "bundle"
    export_bundle(checkpoint, path, ExportOptions("fp16", "fp32"))
    return Bundle.open(path)


@pytest.fixture(scope="module")
def fp32_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("fp32") / "bundle"
    export_bundle(checkpoint, path)
    return Bundle.open(path)


def random_tiles(bundle: Bundle, count: int = 2) -> NDArray[np.uint8]:
    size = bundle.manifest.tiling.tile_size_px
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def image_block(bundle: Bundle, rows: ImageRows) -> Block:
    """Two tiles' image tokens, and one after them that is scored."""
    tokens = 2 * bundle.manifest.model.tokens_per_tile
    return causal_block([bundle.manifest.tokens.img_context] * tokens + [5], 0, rows, [tokens])


def test_image_rows_come_in_the_type_of_the_llm_graph(mixed_bundle: Bundle) -> None:
    for make in ENGINES.values():
        rows = make(mixed_bundle).encode_tiles(random_tiles(mixed_bundle))
        assert (rows.dtype, rows.shape, len(rows[1:5])) == (np.float16, (8, 64), 4)


def test_image_rows_of_another_type_are_refused(engine: Engine, fp16_bundle: Bundle, fp32_bundle: Bundle) -> None:
    wide = fake_engine(fp32_bundle, FakeDevice())[0].encode_tiles(random_tiles(fp32_bundle))
    for rows in (wide, np.asarray(wide)):
        with pytest.raises(EngineError, match="image rows are float32, this LLM graph takes float16: encode"):
            engine.forward(image_block(fp16_bundle, rows), engine.new_cache(64))


@pytest.mark.parametrize("count", [0, 7])
def test_image_rows_must_be_as_many_as_image_tokens(engine: Engine, fp16_bundle: Bundle, count: int) -> None:
    rows = engine.encode_tiles(random_tiles(fp16_bundle))
    cache = engine.new_cache(64)
    with pytest.raises(EngineError, match=f"8 image tokens and {count} image rows"):
        engine.forward(image_block(fp16_bundle, rows[:count]), cache)
    assert cache.length_tokens == 0
    none = causal_block([5, 6], 0, rows, [1])
    with pytest.raises(EngineError, match="0 image tokens and 8 image rows"):
        engine.forward(none, cache)


def test_image_rows_of_another_engine_of_the_same_type(engine: Engine, fp16_bundle: Bundle) -> None:
    """From the host, from another device, from its own: the same bytes, so the same logits."""
    own = engine.encode_tiles(random_tiles(fp16_bundle))
    other, _ = fake_engine(fp16_bundle, FakeDevice())
    for rows in (own, np.asarray(own), other.encode_tiles(random_tiles(fp16_bundle))):
        logits = engine.forward(image_block(fp16_bundle, rows), engine.new_cache(64))
        expected = engine.forward(image_block(fp16_bundle, own), engine.new_cache(64))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)


def test_caches_are_counted_in_bytes_of_capacity(engine: Engine, fp16_bundle: Bundle) -> None:
    row_bytes = fp16_bundle.manifest.cache_row_bytes
    cache = engine.new_cache(2000)
    assert cache.capacity_tokens >= 2000
    assert cache.nbytes == cache.capacity_tokens * row_bytes
    none = np.zeros((0, fp16_bundle.manifest.model.hidden_size), np.float16)
    expected = engine.forward(causal_block(range(5, 25), 0, none, [19]), cache)
    cache.trim()
    assert 20 <= cache.capacity_tokens <= 512
    assert cache.nbytes == cache.capacity_tokens * row_bytes
    cache.truncate(10)
    found = engine.forward(causal_block(range(15, 25), 10, none, [9]), cache)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    cache.release()
    cache.release()
    assert (cache.nbytes, cache.capacity_tokens, cache.length_tokens) == (0, 0, 0)
    with pytest.raises(ValueError, match="the cache was released"):
        engine.forward(causal_block([5], 0, none, [0]), cache)


def test_a_closed_engine_says_so(engine: Engine, fp16_bundle: Bundle) -> None:
    none = np.zeros((0, fp16_bundle.manifest.model.hidden_size), np.float16)
    cache = engine.new_cache(8)
    described, precisions = engine.description, engine.precisions
    assert not engine.is_closed
    engine.close()
    engine.close()
    assert engine.is_closed
    assert (engine.description, engine.precisions) == (described, precisions) == (described, ("fp16", "fp16"))
    for call in (
        lambda: engine.encode_tiles(random_tiles(fp16_bundle)),
        lambda: engine.new_cache(8),
        lambda: engine.forward(causal_block([5], 0, none, [0]), cache),
    ):
        with pytest.raises(EngineError, match="the engine is closed: open the bundle again"):
            call()
    cache.release()


def test_a_closed_engine_has_given_its_memory_back(fp16_bundle: Bundle) -> None:
    device = FakeDevice()
    engine, _ = fake_engine(fp16_bundle, device)
    rows = engine.encode_tiles(random_tiles(fp16_bundle))
    assert device.live
    engine.close()
    assert len(device.live) == 1  # the rows', until nobody has them
    del rows
    assert not device.live


def test_threads_of_one_graph_do_not_take_the_cores_from_the_other(fp32_bundle: Bundle) -> None:
    graph = OrtGraph(fp32_bundle.path, fp32_bundle.manifest.graphs.llm, threads=2)
    options = graph._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_devices_are_chosen_by_index(fp16_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []
    for name in select.ON_CUDA:
        monkeypatch.setitem(
            select.ON_CUDA,  # type: ignore[arg-type]
            name,
            lambda bundle, index, name=name: opened.append((name, index)),
        )
    for device in ("cuda", "cuda:1", "tensorrt:0", "tensorrt-rtx:12"):
        select.open_engine(fp16_bundle, device)
    assert opened == [("cuda", 0), ("cuda", 1), ("tensorrt", 0), ("tensorrt-rtx", 12)]
    for device in ("cuda:", "cuda:x", "cuda:-1", "cuda:1:2"):
        with pytest.raises(InputError, match="has no index after its colon: write it as cuda:0"):
            select.open_engine(fp16_bundle, device)
    for device in ("cpu:0", "openvino:1"):
        with pytest.raises(InputError, match="has an index, which only CUDA devices take: write it as"):
            select.open_engine(fp16_bundle, device)
    with pytest.raises(InputError, match="unknown device 'gpu:1': use auto or cpu, openvino, cuda, tensorrt"):
        StepScorer.open(fp16_bundle, "gpu:1")


def test_a_device_is_made_current_in_every_thread_that_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's CUDA calls go to device 0 until it says otherwise."""
    calls: list[tuple[str, Any]] = []

    def answer(name: str, *results: Any) -> Callable[..., tuple[Any, ...]]:
        return lambda *arguments: (calls.append((name, arguments)), (0, *results))[1]

    runtime = SimpleNamespace(
        cudaStreamNonBlocking=1,
        cudaGetDeviceCount=answer("cudaGetDeviceCount", 2),
        cudaSetDevice=answer("cudaSetDevice"),
        cudaGetDeviceProperties=answer(
            "cudaGetDeviceProperties", SimpleNamespace(name=b"card", major=9, minor=0, totalGlobalMem=100)
        ),
        cudaStreamCreateWithFlags=answer("cudaStreamCreateWithFlags", 7),
        cudaStreamSynchronize=answer("cudaStreamSynchronize"),
        cudaMalloc=answer("cudaMalloc", 256),
        cudaFree=answer("cudaFree"),
    )
    monkeypatch.setattr("vprm_runtime.engines.cuda.device.import_cuda_runtime", lambda extra: runtime)
    with pytest.raises(EngineError, match="there is no CUDA device 2, this machine has 2"):
        CudaDevice(2)
    device = CudaDevice(1)
    assert ("cudaGetDeviceProperties", (1,)) in calls
    device.make_current()
    assert calls[-1] == ("cudaSetDevice", (1,))
    device.release(device.allocate(100))
    device.trim()
    assert calls[-1] == ("cudaFree", (256,))
