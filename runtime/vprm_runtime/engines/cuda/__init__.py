"""The engine on a device with memory of its own, over whichever library runs the graphs.

protocol      what it needs of a device and of a compiled graph
engine        `DeviceEngine`: bindings, parts of long blocks, logits back to the host; `cache`: cached rows
limits        the largest sizes that graphs take, and the memory of what goes in and out; `memory_budget`: all memory
profiles      the shapes that graphs are built for and checked against
device        a CUDA device through cuda-python; `spare_memory`, `replay`: released memory and recorded runs
onnxruntime   graphs run by ONNX Runtime; `tensorrt`: by TensorRT or TensorRT-RTX
"""
