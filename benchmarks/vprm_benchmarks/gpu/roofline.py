"""Measured limits of the device, by PyTorch: matrix products a second and bytes a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def synchronize() -> None:
    """Wait for the CUDA device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_s(call: Callable[[], object], repeats: int, warmups: int = 1) -> float:
    """Median seconds of a call, each finished before the clock stops."""
    times = []
    for number in range(warmups + repeats):
        synchronize()
        started = time.perf_counter()
        call()
        synchronize()
        if number >= warmups:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def roofline(device: str) -> dict[str, float]:
    """Peak TFLOP/s of a square product by type, and GB/s of a copy (bytes read and written)."""
    on_gpu = device == "cuda"
    size = 8192 if on_gpu else 512
    found: dict[str, float] = {}
    types = {"bf16": torch.bfloat16, "fp16": torch.float16} if on_gpu else {"fp32": torch.float32}
    for name, dtype in types.items():
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = median_s(lambda a=a, b=b: a @ b, repeats=20 if on_gpu else 3, warmups=3)  # type: ignore[misc]
        found[f"{name}_tflops"] = 2 * size**3 / seconds / 1e12
    if on_gpu:
        found |= _int8_roofline(size)
    source = torch.empty((1 << 31) if on_gpu else (1 << 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = median_s(lambda: target.copy_(source), repeats=10 if on_gpu else 3)
    found["copy_gb_per_s"] = 2 * source.numel() / seconds / 1e9
    return found


def _int8_roofline(size: int) -> dict[str, float]:
    a, b = (torch.randint(-127, 127, (size, size), device="cuda", dtype=torch.int8) for _ in range(2))
    try:
        seconds = median_s(lambda: torch._int_mm(a, b.t()), repeats=20, warmups=3)
    except RuntimeError:
        return {}
    return {"int8_tops": 2 * size**3 / seconds / 1e12}
