"""TensorRT and TensorRT-RTX engines from a bundle's ONNX graphs."""

from vprm_compile.build import BuildOptions, build_engines

__all__ = ["BuildOptions", "build_engines"]
