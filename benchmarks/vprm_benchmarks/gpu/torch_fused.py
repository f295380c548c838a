"""Short chains of elementwise work, each one kernel on a CUDA device: PyTorch's compiler makes it, once for all sizes.

Unfused, each step of a chain reads and writes the whole tensor, which at 8 B costs as much as the products beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.nn import functional


class Fused:
    """A function of tensors, compiled on CUDA; elsewhere, and where the compiler cannot, as it is written."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        self._function = function
        self._compiled: Callable[..., torch.Tensor] | None = None
        self._compiles = True

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The function's result."""
        if not self._compiles or not tensors[0].is_cuda:
            return self._function(*tensors)
        if self._compiled is None:
            self._compiled = torch.compile(self._function, dynamic=True)
        try:
            return self._compiled(*tensors)
        except (RuntimeError, ImportError, OSError) as error:
            self._compiles = False
            name = self._function.__name__
            warnings.warn(f"{name} is not compiled: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
            return self._function(*tensors)


@Fused
def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate * sigmoid(gate) * up."""
    return functional.silu(gate) * up


@Fused
def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [B, S, heads, D] with both halves of every head rotated; cos and sin [B, S, 1, D/2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@Fused
def int8_codes(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x / scale, rounded to even and saturated, int8."""
    return (x.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)


@Fused
def fp8_codes(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x / scale, rounded to even and saturated, E4M3."""
    return (x.float() / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)


@Fused
def scaled_sums(sums: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor) -> torch.Tensor:
    """Integer sums [rows, columns] by both scales, in the second one's type."""
    return (sums.float() * (scale_a.float() * scale_b.float())).to(scale_b.dtype)
