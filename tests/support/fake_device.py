"""A device whose memory is host memory and whose graphs run in ONNX Runtime on the addresses they are given.

It is stricter than a real one: copies and tensors must lie inside live allocations, addresses must be aligned as
TensorRT wants them, shapes must lie inside the profile, and outputs may not overlap inputs or each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_runtime import Bundle, EngineError
from vprm_runtime.bundle.graph_io import GraphIO
from vprm_runtime.engines.cuda.engine import DeviceEngine
from vprm_runtime.engines.cuda.limits import Limits, inputs_outputs_bytes
from vprm_runtime.engines.cuda.memory_budget import MemoryBudget
from vprm_runtime.engines.cuda.onnxruntime import OrtDeviceGraph
from vprm_runtime.engines.cuda.profiles import Profile, llm_profiles, profile_set, vision_profiles
from vprm_runtime.engines.cuda.protocol import ALIGNMENT_BYTES, Binding, DeviceFacts


class FakeDevice:
    """Host memory with `total_bytes` to give out."""

    def __init__(self, total_bytes: int = 1 << 32, compute_capability: int = 89) -> None:
        self.facts = DeviceFacts("fake device", compute_capability, total_bytes)
        self.live: dict[int, NDArray[np.uint8]] = {}
        self.copied_to_host_bytes = 0
        self.copied_to_device_bytes = 0

    def free_bytes(self) -> int:
        return self.facts.total_bytes - sum(len(memory) for memory in self.live.values())

    def allocate(self, size_bytes: int) -> int:
        if size_bytes > self.free_bytes():
            raise EngineError(f"cannot allocate {size_bytes}")
        raw = np.full(size_bytes + ALIGNMENT_BYTES, 0xAB, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT_BYTES
        memory = raw[start : start + size_bytes]
        self.live[memory.ctypes.data] = memory
        return memory.ctypes.data

    def release(self, address: int) -> None:
        del self.live[address]

    def copy_to_device(self, address: int, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        self.check(address, array.nbytes)
        self.copied_to_device_bytes += array.nbytes
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_to_host(self, array: NDArray[Any], address: int) -> None:
        assert array.flags.c_contiguous
        self.check(address, array.nbytes)
        self.copied_to_host_bytes += array.nbytes
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy_on_device(self, target: int, source: int, size_bytes: int) -> None:
        self.check(target, size_bytes)
        self.check(source, size_bytes)
        assert target + size_bytes <= source or source + size_bytes <= target, "copies may not overlap"
        ctypes.memmove(target, source, size_bytes)

    def synchronize(self) -> None:
        pass

    def make_current(self) -> None:
        pass

    def trim(self) -> None:
        pass

    def check(self, address: int, size_bytes: int) -> None:
        assert any(
            start <= address and address + size_bytes <= start + len(memory) for start, memory in self.live.items()
        ), f"{size_bytes} bytes at {address:#x} are outside of all allocations"


class FakeGraph:
    """An ONNX file that runs on a FakeDevice's addresses, within its profiles."""

    def __init__(self, path: Path, io: GraphIO, profiles: tuple[Profile, ...], device: FakeDevice) -> None:
        self._graph = OrtDeviceGraph(path, profiles, "cpu")
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in (*io.inputs, *io.outputs)}
        self._inputs = [spec.name for spec in io.inputs]
        self._outputs = [spec.name for spec in io.outputs]
        self._device = device
        self.profiles = profiles
        self.runs: list[tuple[int, dict[str, tuple[int, ...]]]] = []
        self.fail_next = False

    def run(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        assert sorted(bindings) == sorted([*self._inputs, *self._outputs])
        self.runs.append((profile, {name: binding.shape for name, binding in bindings.items()}))
        if self.fail_next:
            self.fail_next = False
            raise EngineError("the device failed")
        for name, shapes in self.profiles[profile].items():
            shape = bindings[name].shape
            assert all(low <= size <= high for low, size, high in zip(shapes.min, shape, shapes.max, strict=True)), (
                f"{name} {shape} is outside of {shapes}"
            )
        spans = {name: self._span(name, binding) for name, binding in bindings.items()}
        for output in self._outputs:
            for other, (start, stop) in spans.items():
                assert other == output or spans[output][1] <= start or stop <= spans[output][0], (output, other)
        self._graph.run(profile, bindings)

    def _span(self, name: str, binding: Binding) -> tuple[int, int]:
        assert binding.address % ALIGNMENT_BYTES == 0, f"{name} is not aligned"
        size_bytes = int(np.prod(binding.shape)) * self._dtypes[name].itemsize
        self._device.check(binding.address, size_bytes)
        return binding.address, binding.address + size_bytes


def fake_engine(
    bundle: Bundle, device: FakeDevice, profile: str = "latency", total_multiple: int = 1
) -> tuple[DeviceEngine, FakeGraph]:
    """The engine over a bundle's ONNX graphs on a fake device; also its LLM graph, which counts its runs."""
    sizes = profile_set(profile, bundle.manifest)
    vision_io, llm_io = bundle.manifest.graph_io
    return engine_over(bundle, device, vision_profiles(vision_io, sizes), llm_profiles(llm_io, sizes), total_multiple)


def engine_over(
    bundle: Bundle,
    device: FakeDevice,
    vision_table: tuple[Profile, ...],
    llm_table: tuple[Profile, ...],
    total_multiple: int,
) -> tuple[DeviceEngine, FakeGraph]:
    """The same with profiles of the graphs given."""
    vision_io, llm_io = bundle.manifest.graph_io
    vision = FakeGraph(bundle.vision_path, vision_io, vision_table, device)
    llm = FakeGraph(bundle.llm_path, llm_io, llm_table, device)
    budget = MemoryBudget(
        device.facts.name,
        device.free_bytes(),
        weights_bytes=0,
        workspace_bytes=0,
        inputs_outputs_bytes=inputs_outputs_bytes(bundle.manifest, Limits.of(vision.profiles, llm.profiles)),
        cache_row_bytes=bundle.manifest.cache_row_bytes,
        reserve_bytes=0,
    )
    return DeviceEngine(bundle.manifest, device, vision, llm, budget, "fake", total_multiple), llm
