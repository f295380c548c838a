"""What a bundle is made for: this machine, or one that is named."""

import re
from dataclasses import dataclass
from typing import Literal

from vprm_runtime import native
from vprm_runtime.errors import InputError
from vprm_runtime.machine import Gpu, Machine

Layout = Literal["cpu", "cpu-native", "tensorrt"]  # `--target` of `vprm export`
_GB = 1_000_000_000


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    `layout` is what quantised graphs are laid out for; `capability` (89 for 8.9) and `gpu_memory_bytes` are a GPU's,
    None for CPUs. `runs_here`: whether this machine is of that kind, so that speeds measured here are its own.
    """

    name: str
    title: str
    layout: Layout
    runs_here: bool
    has_bf16: bool = False  # fast products of bfloat16 on the CPU
    capability: int | None = None
    gpu_memory_bytes: int | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether bundles are for a CUDA device."""
        return self.capability is not None


_GPUS = {
    "l4": ("L4", r"\bL4\b", 89, 24),
    "l40s": ("L40S", r"\bL40S\b", 89, 48),
    "a100": ("A100", r"\bA100\b", 80, 80),
    "h100": ("H100", r"\bH100\b", 90, 80),
    "rtx-40": ("GeForce RTX 40", r"\bGeForce RTX 40\d\d", 89, 16),
    "rtx-50": ("GeForce RTX 50", r"\bGeForce RTX 50\d\d", 120, 16),
}
"""Title, what the driver calls it, compute capability, memory in GB."""
NAMES = ("this", "cpu", "cpu-amx", "cpu-avx512", *_GPUS)


def find_target(name: str, machine: Machine) -> Target:
    """The target that `name` (one of NAMES) stands for. Raises InputError on another name."""
    level = native.level()
    if name == "this":
        if machine.gpus:
            return _of_gpu(max(machine.gpus, key=lambda gpu: gpu.memory_bytes))
        return Target(name, machine.cpu, "cpu-native" if level else "cpu", True, bool(level) and native.has_bf16())
    if name == "cpu":
        return Target(name, "any CPU", "cpu", True)
    if name == "cpu-amx":
        return Target(name, "x86 CPU with AMX", "cpu-native", level is native.Level.AMX, has_bf16=True)
    if name == "cpu-avx512":
        return Target(name, "x86 CPU with AVX-512 VNNI", "cpu-native", bool(level))
    if name not in _GPUS:
        raise InputError(f"unknown machine {name!r}: use one of {', '.join(NAMES)}")
    title, pattern, capability, memory_gb = _GPUS[name]
    here = next((gpu for gpu in machine.gpus if re.search(pattern, gpu.name)), None)
    if here is not None:
        return Target(name, here.name, "tensorrt", True, False, here.compute_capability, here.memory_bytes)
    return Target(name, title, "tensorrt", False, False, capability, memory_gb * _GB)


def _of_gpu(gpu: Gpu) -> Target:
    return Target("this", gpu.name, "tensorrt", True, False, gpu.compute_capability, gpu.memory_bytes)
