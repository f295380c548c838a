"""Engines whose tensors are NumPy arrays in host memory: ONNX Runtime on the CPU, and OpenVINO."""
