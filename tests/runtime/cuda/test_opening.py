"""Engine descriptions, and every reason for which an engine is refused before TensorRT sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vprm_runtime import Bundle, EngineError, InputError, MissingExtraError
from vprm_runtime.engines import open_engine
from vprm_runtime.engines.cuda.device import CudaDevice, is_device_present
from vprm_runtime.engines.cuda.memory_budget import MemoryBudget, gigabytes
from vprm_runtime.engines.cuda.profiles import llm_profiles, profile_set, vision_profiles
from vprm_runtime.engines.cuda.protocol import DeviceFacts
from vprm_runtime.engines.cuda.replay import Replay
from vprm_runtime.engines.cuda.spare_memory import SpareMemory, free_memory
from vprm_runtime.engines.cuda.tensorrt import EngineInfo, inspect_engines
from vprm_runtime.engines.cuda.tensorrt.describe import engine_lines
from vprm_runtime.engines.cuda.tensorrt.engine_file import CompiledCheck, GraphEngine, bundle_fingerprint
from vprm_runtime.engines.cuda.tensorrt.opening import check_engine, choose_engine, describe, memory_budget
from vprm_runtime.engines.cuda.tensorrt.refit import refit

L4 = DeviceFacts("NVIDIA L4", 89, 24 * 10**9)
VERSION = "1.7.1.116"


@pytest.fixture
def built(fp16_bundle: Bundle, tmp_path: Path) -> tuple[Bundle, EngineInfo, Path]:
    """A bundle with an engine of two files that hold nothing."""
    for file in fp16_bundle.path.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    bundle = Bundle.open(tmp_path)
    directory = tmp_path / "engines/tensorrt-rtx-sm89"
    directory.mkdir(parents=True)
    profiles = profile_set("latency", bundle.manifest)
    vision, llm = bundle.manifest.graph_io
    check = CompiledCheck(True, 2, 2, {"half x half": 11}, ())
    graphs = [
        GraphEngine(f"{name}.engine", 4, "00", "fp16", table, 1000, 2000, 0.5, check)
        for name, table in (("vision", vision_profiles(vision, profiles)), ("llm", llm_profiles(llm, profiles)))
    ]
    info = EngineInfo(1, "tensorrt-rtx", VERSION, 89, "full", "latency", bundle_fingerprint(bundle), *graphs)
    (directory / "engine.json").write_text(info.to_json())
    for graph in graphs:
        (directory / graph.file).write_bytes(b"plan")
    return bundle, info, directory


def test_description_survives_its_file(built: tuple[Bundle, EngineInfo, Path]) -> None:
    _, info, directory = built
    assert EngineInfo.read(directory) == info
    assert describe(info, L4) == ("TensorRT-RTX 1.7.1.116, NVIDIA L4 (sm89), vision fp16, LLM fp16, profile latency")


def test_an_engine_in_words(built: tuple[Bundle, EngineInfo, Path]) -> None:
    _, info, _ = built
    assert engine_lines(info) == [
        "tensorrt-rtx-sm89: tensorrt-rtx 1.7.1.116, profile latency, full weights",
        "  a run takes 13 tiles, or 4,096 tokens after 8,192 cached ones, at most",
        *(
            f"  {name}: fp16, 0.0 MB in 0.5 s, workspace 0.0 MB, attention fused in 2 of 2, products 11 of half x half"
            for name in ("vision", "llm")
        ),
    ]


def test_inspect_shows_engines_and_what_is_wrong_with_them(built: tuple[Bundle, EngineInfo, Path]) -> None:
    bundle, _, directory = built
    (good,) = inspect_engines(bundle)
    assert good["error"] is None
    assert good["llm"]["check"]["fused_attention_nodes"] == 2
    json.dumps(good)
    (directory / "llm.engine").write_bytes(b"plan of another build"[:4])
    assert "sha256 differs for engine file" in inspect_engines(bundle, verify=True)[0]["error"]  # of made-up hashes
    (directory / "llm.engine").write_bytes(b"pla")
    (bad,) = inspect_engines(bundle)
    assert "llm.engine has 3 bytes, expected 4 bytes: build the engine again" in bad["error"]


def test_a_good_engine_passes(built: tuple[Bundle, EngineInfo, Path]) -> None:
    bundle, info, directory = built
    assert choose_engine(bundle, L4, None, lambda library: library == "tensorrt-rtx") == (directory, info)
    check_engine(info, directory, bundle, L4, VERSION)


@pytest.mark.parametrize(
    ("change", "facts", "version", "message"),
    [
        ({"bundle_sha256": "ab" * 32}, L4, VERSION, "was built from another bundle (graphs abababababab"),
        ({}, L4, "1.8.0", "was built by tensorrt-rtx 1.7.1.116, installed is tensorrt-rtx 1.8.0: install that version"),
        ({}, DeviceFacts("NVIDIA A100", 80, 1), VERSION, "built for compute capability 8.9, NVIDIA A100 has 8.0"),
    ],
)
def test_engines_that_do_not_fit_are_refused(
    built: tuple[Bundle, EngineInfo, Path], change: dict[str, Any], facts: DeviceFacts, version: str, message: str
) -> None:
    bundle, info, directory = built
    with pytest.raises(EngineError) as error:
        check_engine(replace(info, **change), directory, bundle, facts, version)
    assert message in str(error.value)


def test_no_engine_for_this_device(built: tuple[Bundle, EngineInfo, Path]) -> None:
    bundle, _, _ = built
    with pytest.raises(
        EngineError, match=r"has no engine for RTX 5090 \(tensorrt-rtx-sm120\), it has: tensorrt-rtx-sm89"
    ):
        choose_engine(bundle, DeviceFacts("RTX 5090", 120, 1), "tensorrt-rtx", lambda library: True)
    with pytest.raises(EngineError, match="neither tensorrt nor tensorrt-rtx is installed"):
        choose_engine(bundle, L4, None, lambda library: False)


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_damaged_descriptions_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine.json").write_text(text)
    with pytest.raises(EngineError, match="is not an engine description of this version"):
        EngineInfo.read(tmp_path)
    (tmp_path / "engine.json").unlink()
    with pytest.raises(EngineError, match="cannot be read"):
        EngineInfo.read(tmp_path)


def test_memory_is_planned_from_the_description(built: tuple[Bundle, EngineInfo, Path]) -> None:
    bundle, info, _ = built
    plan = memory_budget(bundle, info, L4, 2 * 10**9)
    assert (plan.weights_bytes, plan.workspace_bytes) == (2000, 2000)  # weights of both, the larger workspace
    assert plan.cache_row_bytes == 3 * 2 * 32 * 2
    assert plan.inputs_outputs_bytes["attention_mask"] == 4096 * (8192 + 4096)
    plan.check_engine(4096)
    small = memory_budget(bundle, info, L4, 10**8)
    with pytest.raises(EngineError, match=r"NVIDIA L4 has 0\.10 GB free, the engine needs 0\.\d\d GB: weights 0.00 MB"):
        small.check_engine()


def test_memory_plan_adds_up() -> None:
    plan = MemoryBudget("card", 1000, 300, 200, {"a": 50, "b": 50}, cache_row_bytes=100, reserve_bytes=100)
    assert (plan.engine_bytes, plan.max_cache_tokens) == (700, 3)
    plan.check_engine(3)
    with pytest.raises(EngineError, match="the engine needs"):
        plan.check_engine(4)
    plan.check_cache(2, free_bytes=200)
    with pytest.raises(InputError, match="a cache of 3 tokens needs"):
        plan.check_cache(3, free_bytes=299)
    later = replace(plan, workspace_is_held=False)
    later.check_cache(2, free_bytes=400)
    with pytest.raises(InputError, match=r"0\.00 MB are free"):
        later.check_cache(1, free_bytes=199)
    assert gigabytes(16_200_000_000) == "16.20 GB"


@pytest.mark.skipif(is_device_present(), reason="this machine has a CUDA device")
def test_no_driver(built: tuple[Bundle, EngineInfo, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _, _ = built
    if sys.modules.get("cuda") is not None or _has_cuda_python():
        with pytest.raises(EngineError, match=r"no CUDA device can be used .* score on the CPU with --device cpu"):
            CudaDevice()
    assert "CPU" in open_engine(bundle).description  # auto, although an engine is there
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vprm\[tensorrt\]'"):
        CudaDevice()
    with pytest.raises(InputError, match="unknown device 'gpu': use auto or cpu, openvino, cuda, tensorrt"):
        open_engine(bundle, "gpu")
    for library, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=library):
            open_engine(bundle, library)


def _has_cuda_python() -> bool:
    try:
        __import__("cuda.bindings.runtime")
    except ImportError:
        return False
    return True


class Recorder:
    """A device that records captures and launches."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def capture(self, enqueue: Callable[[], None]) -> str:
        enqueue()
        return f"graph of {self.log.pop()}"

    def launch(self, graph: str) -> None:
        self.log.append(f"launch {graph}")

    def forget(self, graph: str) -> None:
        self.log.append(f"forget {graph}")


def test_repeated_runs_are_replayed() -> None:
    device = Recorder()
    replay = Replay(device, capacity=2)
    for key in ("a", "a", "b", "a", "c", "b"):
        replay.run(key, lambda key=key: device.log.append(f"run {key}"))  # type: ignore[misc]
    assert device.log == [
        "run a",
        "launch graph of run a",
        "run b",
        "launch graph of run a",
        "run c",
        "run b",
        "forget graph of run a",
    ]


def test_runs_that_cannot_be_recorded_are_queued_directly() -> None:
    class Refusing(Recorder):
        def capture(self, enqueue: Callable[[], None]) -> str:
            raise EngineError("the stream cannot be captured")

    device = Refusing()
    replay = Replay(device)

    def run(key: str) -> None:
        replay.run(key, lambda: device.log.append(f"run {key}"))

    run("a")
    with pytest.warns(RuntimeWarning, match="not replayed as CUDA graphs: the stream cannot be captured"):
        run("a")
    run("a")
    run("b")
    assert device.log == ["run a", "run a", "run a", "run b"]


def test_spare_memory_is_reused_by_size() -> None:
    memory = SpareMemory()
    memory.add(256, 100)
    memory.add(512, 100)
    assert memory.take(100) is None
    memory.release(256)
    assert (memory.spare_bytes, memory.take(99), memory.take(100)) == (100, None, 256)
    memory.release(512)
    assert (memory.drain(), memory.spare_bytes) == ([512], 0)
    memory.release(256)
    freed: list[int] = []
    free_memory(SimpleNamespace(cudaFree=freed.append), memory)
    assert (freed, memory.spare_bytes) == ([256], 0)


class FakeRefitting:
    """Both refitters of a TensorRT module, with chosen answers."""

    def __init__(self, parsed: bool = True, missing: tuple[str, ...] = (), refitted: bool = True) -> None:
        self.num_errors = 1
        self.calls: list[str] = []
        self._answers = (parsed, missing, refitted)

    def Refitter(self, engine: Any, logger: Any) -> FakeRefitting:  # noqa: N802 - TensorRT's name
        return self

    OnnxParserRefitter = Refitter

    def refit_from_file(self, path: str) -> bool:
        self.calls.append(path)
        return self._answers[0]

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "weight of another shape")

    def get_missing_weights(self) -> list[str]:
        return list(self._answers[1])

    def refit_cuda_engine(self) -> bool:
        return self._answers[2]


def test_stripped_engines_take_the_bundle_s_weights(fp16_bundle: Bundle) -> None:
    logger = SimpleNamespace(messages=["a message"])
    good = FakeRefitting()
    refit(good, None, fp16_bundle.llm_path, logger)
    assert good.calls == [str(fp16_bundle.llm_path)]
    for bad, message in (
        (FakeRefitting(parsed=False), "cannot take the weights of .*llm.onnx: weight of another shape"),
        (FakeRefitting(missing=("w1", "w2")), "no values for 2 weights of the engine, the first is 'w1'"),
        (FakeRefitting(refitted=False), "refitting from .*llm.onnx failed: a message"),
    ):
        with pytest.raises(EngineError, match=message):
            refit(bad, None, fp16_bundle.llm_path, logger)
