"""TensorRT and TensorRT-RTX engines from a bundle's ONNX graphs. `build` has `BuildOptions` and `build_engines`."""
