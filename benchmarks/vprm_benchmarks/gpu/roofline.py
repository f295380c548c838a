"""Measured limits of the suite's device, by PyTorch: matrix products per second and bytes per second."""

from __future__ import annotations

from vprm_benchmarks.speed.roofline import ProductType, copy_gb_per_s, torch_tflops


def roofline(device: str) -> dict[str, float]:
    """Peak TFLOP/s of a square product by type, and GB/s of a copy (bytes read and written)."""
    on_gpu = device == "cuda"
    size, repeats = (8192, 20) if on_gpu else (512, 3)
    types: tuple[ProductType, ...] = ("bf16", "fp16", "int8") if on_gpu else ("fp32",)
    found: dict[str, float] = {}
    for kind in types:
        value = torch_tflops(kind, size, device, repeats)
        if value is not None:
            found["int8_tops" if kind == "int8" else f"{kind}_tflops"] = value
    found["copy_gb_per_s"] = copy_gb_per_s((1 << 31) if on_gpu else (1 << 24), device)
    return found
