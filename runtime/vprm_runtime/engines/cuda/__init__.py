"""The engine on a device with memory of its own, over whichever library runs the graphs.

protocol     what it needs of a device and of a compiled graph
engine       `DeviceEngine`: bindings, cache, parts of long blocks, logits back to the host
cuda_device  a CUDA device through cuda-python; `ort_cuda` and `trt` have the graphs
"""
