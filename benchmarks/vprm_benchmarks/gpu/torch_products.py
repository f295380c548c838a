"""Matrix products of quantised graphs with PyTorch's 8-bit kernels, where the device and the sizes allow them.

A graph says `DequantizeLinear` on both sides of a product; what is meant is a product of the codes, scaled afterwards.
So a dequantised tensor stays codes and scales until somebody needs its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vprm_benchmarks.gpu.torch_fused import fp8_codes, int8_codes, scaled_sums

_MIN_ROWS = 17  # torch._int_mm on CUDA wants more than 16 rows


@dataclass(frozen=True)
class Quantised:
    """Codes and their scale: one for all, or one for each index of `axis`."""

    codes: torch.Tensor
    scale: torch.Tensor
    axis: int

    def values(self) -> torch.Tensor:
        """What it stands for, in the scale's type."""
        shape = [1] * self.codes.dim()
        if self.scale.numel() > 1:
            shape[self.axis] = -1
        return self.codes.to(self.scale.dtype) * self.scale.reshape(shape)

    def for_products(self) -> Quantised:
        """A weight [in, out] whose columns lie together, as 8-bit kernels want it."""
        if self.codes.dim() != 2:
            return self
        return Quantised(self.codes.t().contiguous().t(), self.scale, self.axis)


def dequantised(value: Any) -> Any:
    """The tensor that a value stands for."""
    return value.values() if isinstance(value, Quantised) else value


def quantised(tensor: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Codes of a tensor, rounded to even and saturated, with a zero point of zero; int8 or E4M3."""
    return (int8_codes if dtype == torch.int8 else fp8_codes)(tensor, scale)


def product(a: Any, b: Any) -> torch.Tensor:
    """a [..., in] times b [in, out]; of codes where both are quantised alike and the device has such a kernel."""
    if isinstance(a, Quantised) and isinstance(b, Quantised) and _has_kernel(a, b):
        return _int8_product(a, b) if a.codes.dtype == torch.int8 else _fp8_product(a, b)
    return torch.matmul(dequantised(a), dequantised(b))


def _has_kernel(a: Quantised, b: Quantised) -> bool:
    alike = a.codes.dtype == b.codes.dtype and a.codes.dim() == b.codes.dim() == 2 and a.scale.numel() == 1
    if not alike or a.codes.shape[0] < _MIN_ROWS:
        return False
    return a.codes.dtype == torch.int8 or (a.codes.is_cuda and torch.cuda.get_device_capability() >= (8, 9))


def _int8_product(a: Quantised, b: Quantised) -> torch.Tensor:
    """Sums in int32, scaled in float32 on the way to the scales' type."""
    return scaled_sums(torch._int_mm(a.codes, b.codes), a.scale, b.scale)


def _fp8_product(a: Quantised, b: Quantised) -> torch.Tensor:
    """Scaled by the largest column's scale inside, by each column's share of it afterwards (so float16 holds it)."""
    scales = b.scale.float()
    largest = scales.max()
    out = torch._scaled_mm(
        a.codes,
        b.codes,
        scale_a=a.scale.float().reshape(()),
        scale_b=largest,
        out_dtype=b.scale.dtype,
        use_fast_accum=True,
    )
    return out * (scales / largest).to(out.dtype)
