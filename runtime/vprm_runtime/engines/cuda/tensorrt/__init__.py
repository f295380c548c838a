"""TensorRT and TensorRT-RTX: graphs of either library for the engine on a device, and the engines that bundles hold."""

from vprm_runtime.engines.cuda.tensorrt.describe import inspect_engines
from vprm_runtime.engines.cuda.tensorrt.engine_file import EngineInfo, engine_directories

__all__ = ["EngineInfo", "engine_directories", "inspect_engines"]
