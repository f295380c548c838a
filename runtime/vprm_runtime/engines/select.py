"""Pick an engine by what is asked for, installed and present.

`auto` takes the first that can be used. If there is a CUDA device: TensorRT or TensorRT-RTX if the bundle has built
engines, then ONNX Runtime on CUDA if that is installed and the bundle is not quantised for CPUs. Otherwise ONNX Runtime
on the CPU. OpenVINO is never chosen automatically, because it computes in bfloat16 on CPUs that support it.
`engine.description` names the chosen engine. If it cannot be opened, we raise instead of silently falling back to a
slower one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.engines.base import Engine
from vprm_runtime.engines.cuda.device import is_device_present
from vprm_runtime.engines.cuda.onnxruntime import is_cuda_installed, open_ort_cuda
from vprm_runtime.engines.cuda.tensorrt.engine_file import LIBRARIES, engine_directories
from vprm_runtime.engines.cuda.tensorrt.opening import open_tensorrt
from vprm_runtime.engines.host.onnxruntime import OrtEngine
from vprm_runtime.engines.host.openvino import OpenVinoEngine
from vprm_runtime.errors import InputError, MissingExtraError

ON_CPU: Mapping[str, Callable[[Bundle, int | None], Engine]] = {"cpu": OrtEngine, "openvino": OpenVinoEngine}
"""By device name: opens a bundle with a number of CPU threads (None: all cores)."""
ON_CUDA: Mapping[str, Callable[[Bundle, int], Engine]] = {
    "cuda": open_ort_cuda,
    **{library: partial(open_tensorrt, library=library) for library in LIBRARIES},
}
"""By device name: opens a bundle on the CUDA device with an index."""
DEVICES = (*ON_CPU, *ON_CUDA)


def open_engine(bundle: Bundle, device: str = "auto", threads: int | None = None) -> Engine:
    """Open an engine for a device.

    Args:
        bundle: whose graphs it runs.
        device: "auto", one of DEVICES, or one of those on CUDA with a device's index: "cuda:1", "tensorrt:0".
        threads: CPU threads at most (default: all cores).

    Returns:
        An open engine.

    Raises:
        InputError: the device is unknown, or an index is given to one that has none.
        MissingExtraError: the library is not installed.
        EngineError: the library cannot open the graphs, or there is no such device.
    """
    name, index = device_and_index(device)
    if name == "auto":
        return _first_usable(bundle, threads)
    return ON_CUDA[name](bundle, index) if name in ON_CUDA else ON_CPU[name](bundle, threads)


def device_and_index(device: str) -> tuple[str, int]:
    """The parts of a device's name: "cuda:1" is ("cuda", 1). Raises InputError as `open_engine` does."""
    name, colon, index = device.partition(":")
    if name not in ("auto", *DEVICES):
        raise InputError(f"unknown device {device[:200]!r}: use auto or {', '.join(DEVICES)}")
    if colon and name not in ON_CUDA:
        raise InputError(f"device {device[:200]!r} has an index, which only CUDA devices take: write it as {name}")
    if colon and not index.isdecimal():
        raise InputError(f"device {device[:200]!r} has no index after its colon: write it as {name}:0")
    return name, int(index or 0)


def _first_usable(bundle: Bundle, threads: int | None) -> Engine:
    if is_device_present():
        if engine_directories(bundle):
            return open_tensorrt(bundle)
        graphs = (bundle.manifest.graphs.vision, bundle.manifest.graphs.llm)
        if is_cuda_installed() and all(graph.quantisation is None for graph in graphs):
            return open_ort_cuda(bundle)
    if find_spec("onnxruntime") is None and find_spec("openvino") is not None:
        raise MissingExtraError("scoring on the CPU (OpenVINO is installed: give --device openvino)", "cpu")
    return OrtEngine(bundle, threads)
