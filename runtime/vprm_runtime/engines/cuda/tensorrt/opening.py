"""From a bundle to a TensorRT engine: choose the engine directory, check it, budget memory, load.

| step   | requires                              | ensures                                                    |
|--------|---------------------------------------|------------------------------------------------------------|
| choose | a bundle with built engines, a device | an engine of an installed library for this device          |
| check  | the above                             | it is of this bundle, this library version, this device    |
| budget | the above                             | weights, workspace and a cache fit                         |
| load   | the above                             | both graphs are on the device and share one workspace    |
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.engines.cuda.device import CudaDevice
from vprm_runtime.engines.cuda.engine import DeviceEngine
from vprm_runtime.engines.cuda.limits import Limits, inputs_outputs_bytes
from vprm_runtime.engines.cuda.memory_budget import MemoryBudget
from vprm_runtime.engines.cuda.protocol import Buffer, DeviceFacts
from vprm_runtime.engines.cuda.tensorrt.engine_checks import check_bundle, check_device, check_files, check_library
from vprm_runtime.engines.cuda.tensorrt.engine_file import (
    ENGINES_FOLDER,
    EngineInfo,
    GraphEngine,
    Library,
    engine_directories,
    engine_name,
)
from vprm_runtime.engines.cuda.tensorrt.graph import TensorRTGraph, import_tensorrt, is_installed
from vprm_runtime.errors import EngineError


def open_tensorrt(bundle: Bundle, device_index: int = 0, library: Library | None = None) -> DeviceEngine:
    """Open the bundle's engine for this device. `library` None: whichever is installed and has one built.

    Raises EngineError (no driver, no engine, engine of another bundle, version or device, too little memory) or
    MissingExtraError.
    """
    if library is not None:
        import_tensorrt(library)
    device = CudaDevice(device_index)
    directory, info = choose_engine(bundle, device.facts, library, is_installed)
    check_engine(info, directory, bundle, device.facts, str(import_tensorrt(info.library).__version__))
    budget = memory_budget(bundle, info, device.facts, device.free_bytes())
    budget.check_engine()
    stripped = info.weights == "stripped"
    vision, llm = (
        TensorRTGraph(
            info.library,
            directory / graph.file,
            device,
            refit_from=path if stripped else None,
            runtime_cache=(directory / graph.file).with_suffix(".cache"),
        )
        for graph, path in ((info.vision, bundle.vision_path), (info.llm, bundle.llm_path))
    )
    workspace = Buffer(device, max(vision.workspace_bytes, llm.workspace_bytes))
    for graph in (vision, llm):
        graph.use_workspace(workspace)
    return DeviceEngine(bundle.manifest, device, vision, llm, budget, describe(info, device.facts))


def choose_engine(
    bundle: Bundle, facts: DeviceFacts, library: Library | None, installed: Callable[[Library], bool]
) -> tuple[Path, EngineInfo]:
    """The engine directory for this device: TensorRT before TensorRT-RTX if both can be used."""
    wanted: Sequence[Library] = (library,) if library else ("tensorrt", "tensorrt-rtx")
    names = [engine_name(one, facts.compute_capability) for one in wanted if installed(one)]
    for name in names:
        directory = bundle.path / ENGINES_FOLDER / name
        if directory.is_dir():
            return directory, EngineInfo.read(directory)
    built = ", ".join(directory.name for directory in engine_directories(bundle)) or "none"
    if not names:
        raise EngineError(
            "neither tensorrt nor tensorrt-rtx is installed: run  pip install 'vprm[tensorrt-rtx]'  (RTX cards, L4, "
            "L40S, A100) or  pip install 'vprm[tensorrt]'"
        )
    raise EngineError(
        f"{bundle.path} has no engine for {facts.name} ({' or '.join(names)}), it has: {built}. "
        f"Run  vprm build {bundle.path} --engine {names[0].rsplit('-sm', 1)[0]} --sm {facts.compute_capability}"
    )


def check_engine(info: EngineInfo, directory: Path, bundle: Bundle, facts: DeviceFacts, version: str) -> None:
    """All checks that need no loading. Raises EngineError."""
    check_bundle(info, bundle)
    check_library(info, version)
    check_device(info, facts.compute_capability, facts.name)
    check_files(info, directory)


def memory_budget(bundle: Bundle, info: EngineInfo, facts: DeviceFacts, free_bytes: int) -> MemoryBudget:
    """Memory of both graphs by what the builder reported; they share one workspace."""
    manifest = bundle.manifest
    graphs: tuple[GraphEngine, GraphEngine] = (info.vision, info.llm)
    limits = Limits.of(info.vision.profiles, info.llm.profiles)
    return MemoryBudget(
        device_name=facts.name,
        free_bytes=free_bytes,
        weights_bytes=sum(graph.weights_bytes for graph in graphs),
        workspace_bytes=max(graph.workspace_bytes for graph in graphs),
        inputs_outputs_bytes=inputs_outputs_bytes(manifest, limits),
        cache_row_bytes=manifest.cache_row_bytes,
    )


def describe(info: EngineInfo, facts: DeviceFacts) -> str:
    """What runs where, for people."""
    name = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[info.library]
    return (
        f"{name} {info.library_version}, {facts.name} (sm{facts.compute_capability}), "
        f"vision {info.vision.precision}, LLM {info.llm.precision}, profile {info.profile}"
    )
