"""Pick an engine by what is asked for, installed and present.

`auto` takes the first that can be used: where there is a CUDA device, TensorRT or TensorRT-RTX if the bundle has built
engines, then ONNX Runtime on CUDA if that is installed and the bundle is not quantised for CPUs; ONNX Runtime on the
CPU. OpenVINO is for asking: it rounds to bfloat16 where the CPU does. What was picked stands in the engine's
`description`; where what was picked cannot be opened its error says what to mend, as a slower engine in silence would
not.
"""

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.engines.base import Engine
from vprm_runtime.engines.cuda.device import is_device_present
from vprm_runtime.engines.cuda.onnxruntime import is_cuda_installed, open_ort_cuda
from vprm_runtime.engines.cuda.tensorrt.engine_file import LIBRARIES, engine_directories
from vprm_runtime.engines.cuda.tensorrt.opening import open_tensorrt
from vprm_runtime.engines.host.onnxruntime import OrtEngine
from vprm_runtime.engines.host.openvino import OpenVinoEngine
from vprm_runtime.errors import InputError

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
        return open_ort_cuda(bundle)
    for library in LIBRARIES:
        if device == library:
            return open_tensorrt(bundle, library)
    if device != "auto":
        raise InputError(f"unknown device {device!r}: use auto or {', '.join(DEVICES)}")
    return _first_usable(bundle, threads)


def _first_usable(bundle: Bundle, threads: int | None) -> Engine:
    if is_device_present():
        if engine_directories(bundle):
            return open_tensorrt(bundle)
        graphs = (bundle.manifest.graphs.vision, bundle.manifest.graphs.llm)
        if is_cuda_installed() and all(graph.quantisation is None for graph in graphs):
            return open_ort_cuda(bundle)
    return OrtEngine(bundle, threads=threads)
