"""What may be built: options, the device to build for, and the precisions that it can multiply."""

from dataclasses import dataclass
from typing import Any

from vprm_compile.callbacks import (
    supported_capabilities,
)
from vprm_runtime.bundle.manifest import GraphInfo
from vprm_runtime.engines.cuda.device import CudaDevice, is_device_present
from vprm_runtime.engines.cuda.tensorrt.engine_file import (
    Library,
    Weights,
)
from vprm_runtime.errors import EngineError, InputError, UnsupportedError

_FP8_CAPABILITY = 89  # Ada and later; NVIDIA, TensorRT-RTX support matrix


@dataclass(frozen=True)
class BuildOptions:
    """What to build. `compute_capability` 89 for 8.9; None: that of the device in this machine."""

    library: Library
    compute_capability: int | None = None
    profile: str = "latency"
    weights: Weights = "full"


def checked_capability(trt: Any, options: BuildOptions) -> int:
    """The compute capability to build for. Raises InputError or EngineError if that cannot be built here."""
    present = CudaDevice().facts.compute_capability if is_device_present() else None
    capability = options.compute_capability or present
    if options.weights == "stripped" and present is None:
        raise EngineError("--weights stripped needs a device with its driver at build time: use  --weights full  here")
    if capability is None:
        raise InputError(
            "there is no CUDA device here to build for: name one, e.g. "
            "--sm 80 (A100), 86 (RTX 30, A10), 89 (L4, L40S, RTX 40), 120 (RTX 50)"
        )
    if options.library == "tensorrt":
        if present is None:
            raise EngineError(
                "TensorRT times kernels on the device that it builds for, and there is none here: build on that "
                "machine, or ahead of time with  --engine tensorrt-rtx"
            )
        if capability != present:
            raise InputError(f"TensorRT builds for the device in this machine, sm{present}, not for sm{capability}")
        return capability
    allowed = supported_capabilities(trt)
    if capability not in allowed and capability != present:  # for the device that is here the library itself may try
        raise InputError(
            f"TensorRT-RTX {trt.__version__} does not build for sm{capability}, only for "
            f"{', '.join(map(str, allowed))}: H100, H200 and B200 need  --engine tensorrt  on the spot"
        )
    return capability


def check_precision(graph: GraphInfo, capability: int) -> None:
    """Raise UnsupportedError if a graph's precision cannot become an engine for this device."""
    quantisation = graph.quantisation
    if quantisation is not None and quantisation.target != "tensorrt":
        raise UnsupportedError(
            f"{graph.file} is quantised for {quantisation.target} engines: export the checkpoint again with  "
            f"--precision {graph.precision} --target tensorrt"
        )
    if graph.io_dtype == "float32":
        raise UnsupportedError(
            f"{graph.file} computes in float32, for which TensorRT has no fused attention kernel: export the "
            "checkpoint again with  --precision fp16  (or int8, w8, w4, fp8 with --target tensorrt)"
        )
    if graph.precision == "fp8" and capability < _FP8_CAPABILITY:
        raise UnsupportedError(
            f"{graph.file} is fp8, which sm{capability} cannot multiply (from sm{_FP8_CAPABILITY} on): "
            "export the checkpoint again with  --precision int8 --target tensorrt"
        )
