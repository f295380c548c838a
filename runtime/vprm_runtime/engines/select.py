"""Pick an engine by what is asked for, installed and present.

`auto` takes the first that can be used: TensorRT or TensorRT-RTX where there is a device and the bundle has an engine
built for it, ONNX Runtime on CUDA, ONNX Runtime on the CPU. OpenVINO is for asking: it rounds to bfloat16 where the
CPU does. What was picked stands in the engine's `description`.
"""

from vprm_runtime.bundle import Bundle
from vprm_runtime.engines.base import Engine
from vprm_runtime.engines.openvino import OpenVinoEngine
from vprm_runtime.engines.ort import OrtEngine
from vprm_runtime.engines.ort_cuda import OrtCudaEngine, is_cuda_installed
from vprm_runtime.engines.trt.cuda_device import is_device_present
from vprm_runtime.engines.trt.engine_info import LIBRARIES, engine_directories
from vprm_runtime.engines.trt.opening import open_tensorrt
from vprm_runtime.errors import EngineError, InputError

DEVICES = ("cpu", "openvino", "cuda", "tensorrt", "tensorrt-rtx")


def open_engine(bundle: Bundle, device: str = "auto", threads: int | None = None) -> Engine:
    """Open an engine for `device`: "auto" or one of DEVICES. `threads` limits CPU threads (None: all cores).

    Raises InputError on an unknown device, MissingExtraError or EngineError where its library cannot be used.
    """
    if device == "cpu":
        return OrtEngine(bundle, threads=threads)
    if device == "openvino":
        return OpenVinoEngine(bundle, threads=threads)
    if device == "cuda":
        return OrtCudaEngine(bundle)
    for library in LIBRARIES:
        if device == library:
            return open_tensorrt(bundle, library)
    if device != "auto":
        raise InputError(f"unknown device {device!r}: use auto or {', '.join(DEVICES)}")
    return _first_usable(bundle, threads)


def _first_usable(bundle: Bundle, threads: int | None) -> Engine:
    if engine_directories(bundle) and is_device_present():
        return open_tensorrt(bundle)  # its errors say what to mend; a slower engine in silence would not
    graphs = bundle.manifest.graphs
    if is_cuda_installed() and not (graphs.vision.is_native or graphs.llm.is_native):
        try:
            return OrtCudaEngine(bundle)
        except EngineError:
            pass  # the package without a device: the CPU is what is left
    return OrtEngine(bundle, threads=threads)
