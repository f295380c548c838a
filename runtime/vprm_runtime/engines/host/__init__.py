"""Engines whose tensors are NumPy arrays in host memory.

engine       `HostEngine`: tiles, cache, blocks, over any library's graphs
cache        cached rows in preallocated arrays
onnxruntime  ONNX Runtime on the CPU
openvino     OpenVINO on the CPU
"""
