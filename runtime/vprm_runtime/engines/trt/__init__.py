"""TensorRT and TensorRT-RTX: one engine class over both, on a small device protocol that tests fake."""

from vprm_runtime.engines.trt.engine import TensorRTEngine
from vprm_runtime.engines.trt.engine_info import EngineInfo, engine_directories, inspect_engines

__all__ = ["EngineInfo", "TensorRTEngine", "engine_directories", "inspect_engines"]
