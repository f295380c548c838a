"""Measured limits of a machine: peak matrix products of three libraries by type, and memory bandwidth.

Operations a second are 2 n^3 over the median seconds of an [n, n] x [n, n] product, for int8 as for floating point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from vprm_benchmarks.speed.machine import machine
from vprm_benchmarks.speed.physical import physical_tops, read_gb_per_s
from vprm_benchmarks.speed.stopwatch import median_s
from vprm_export.graphs.builder import IR_VERSION, OPSET
from vprm_runtime.machine import available_cores

ProductType = Literal["fp32", "bf16", "fp16", "int8"]
_COPY_BYTES = 1 << 28
_FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def synchronize() -> None:
    """Wait for the CUDA device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cpu_roofline(threads: int | None = None, size: int = 2048) -> dict[str, Any]:
    """The `roofline` of a benchmark's document: TFLOP/s by library and type, GB/s of a copy, and the machine.

    `physical_tops` and `read_gb_per_s` are the hardware's own limits (vprm_benchmarks.speed.physical).
    """
    count = threads or available_cores()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        torch_types: tuple[ProductType, ...] = ("fp32", "bf16", "int8")
        found = {f"torch_{kind}": torch_tflops(kind, size) for kind in torch_types}
        found |= {f"onnxruntime_{kind}": onnxruntime_tflops(kind, size, count) for kind in ("fp32", "int8")}
        return {
            "tflops": {name: value for name, value in found.items() if value is not None},
            "product_size": size,
            "memory_gb_per_s": copy_gb_per_s(_COPY_BYTES),
            "physical_tops": physical_tops(count),
            "read_gb_per_s": read_gb_per_s(count),
            "threads": count,
            "machine": machine(),
        }
    finally:
        torch.set_num_threads(before)


def torch_tflops(kind: ProductType, size: int, device: str = "cpu", repeats: int = 3) -> float | None:
    """TFLOP/s of PyTorch's square product; None if this device has no int8 product."""
    if kind == "int8":
        a, b = (torch.randint(-127, 127, (size, size), device=device, dtype=torch.int8) for _ in range(2))
        call: Callable[[], object] = lambda: torch._int_mm(a, b.t())  # noqa: E731
    else:
        a, b = (torch.randn(size, size, device=device).to(_FLOATS[kind]) for _ in range(2))
        call = lambda: a @ b  # noqa: E731
    try:
        return _tflops(size, median_s(call, repeats, warmups=2, synchronize=synchronize))
    except RuntimeError:
        if kind == "int8":
            return None
        raise


def copy_gb_per_s(size_bytes: int, device: str = "cpu", repeats: int = 5) -> float:
    """GB/s of a copy by PyTorch, bytes read and bytes written."""
    source = torch.zeros(size_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size_bytes / median_s(lambda: target.copy_(source), repeats, synchronize=synchronize) / 1e9


def onnxruntime_tflops(kind: Literal["fp32", "int8"], size: int, threads: int, repeats: int = 3) -> float:
    """TFLOP/s of ONNX Runtime's MatMul, or of its MatMulInteger for uint8 inputs and int8 weights, as graphs use it."""
    random = np.random.default_rng(0)
    if kind == "fp32":
        inputs = random.standard_normal((size, size), np.float32)
        weights = random.standard_normal((size, size), np.float32)
        model = _product_model("MatMul", inputs, weights, ir.DataType.FLOAT)
    else:
        inputs = random.integers(0, 256, (size, size), np.uint8)
        weights = random.integers(-127, 128, (size, size), np.int8)
        model = _product_model("MatMulInteger", inputs, weights, ir.DataType.INT32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return _tflops(size, median_s(lambda: session.run(None, {"a": inputs}), repeats, warmups=2))


def openvino_tflops(threads: int, size: int, repeats: int = 3) -> float:
    """TFLOP/s of OpenVINO's product in the type that its engine computes in: bfloat16 if the CPU does."""
    import openvino

    from vprm_runtime.engines.host.openvino import graph_options, native_arithmetic

    random = np.random.default_rng(0)
    inputs, weights = (random.standard_normal((size, size), np.float32) for _ in range(2))
    model = ir.serde.serialize_model(_product_model("MatMul", inputs, weights, ir.DataType.FLOAT)).SerializeToString()
    core = openvino.Core()
    options = graph_options(native_arithmetic(core), threads)
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    request.set_tensor("a", openvino.Tensor(inputs, shared_memory=True))
    return _tflops(size, median_s(request.infer, repeats, warmups=2))


def _product_model(operator: str, inputs: Any, weights: Any, result: ir.DataType) -> ir.Model:
    """A graph of one product with constant weights, so that they are packed once, as a model's are."""
    a = ir.Value(name="a", shape=ir.Shape(inputs.shape), type=ir.TensorType(ir.DataType.from_numpy(inputs.dtype)))
    b = ir.Value(
        name="b",
        shape=ir.Shape(weights.shape),
        type=ir.TensorType(ir.DataType.from_numpy(weights.dtype)),
        const_value=ir.tensor(weights, name="b"),
    )
    node = ir.node(operator, [a, b])
    node.outputs[0].name = "c"
    node.outputs[0].type = ir.TensorType(result)
    node.outputs[0].shape = ir.Shape((len(inputs), weights.shape[1]))
    graph = ir.Graph([a], node.outputs, nodes=[node], initializers=[b], opset_imports={"": OPSET}, name="product")
    return ir.Model(graph, ir_version=IR_VERSION)


def _tflops(size: int, product_s: float) -> float:
    return 2 * size**3 / product_s / 1e12
