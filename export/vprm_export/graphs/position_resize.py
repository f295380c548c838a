"""Bicubic resize of position embeddings, as PyTorch's `interpolate(mode="bicubic", align_corners=False)` does it."""

import numpy as np
from numpy.typing import NDArray

_A = -0.75  # the cubic's free parameter in PyTorch (aten/src/ATen/native/UpSample.h)


def bicubic_resize(grid: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """float32 [H, W, C] -> [rows, columns, C]; no antialiasing, edges repeated."""
    vertical = _resize_matrix(grid.shape[0], rows)
    horizontal = _resize_matrix(grid.shape[1], columns)
    resized = np.einsum("ih,hwc,jw->ijc", vertical, grid.astype(np.float64), horizontal, optimize=True)
    return np.asarray(resized, np.float32)


def _resize_matrix(source: int, target: int) -> NDArray[np.float64]:
    """[target, source] interpolation weights of one axis."""
    matrix = np.zeros((target, source))
    centres = (np.arange(target) + 0.5) * (source / target) - 0.5
    base = np.floor(centres).astype(int)
    for tap in range(-1, 3):
        weight = _cubic(np.abs(centres - (base + tap)))
        np.add.at(matrix, (np.arange(target), np.clip(base + tap, 0, source - 1)), weight)
    return matrix


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel at distances in [0, 2)."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, far)
