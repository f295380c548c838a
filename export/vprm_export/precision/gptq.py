"""GPTQ: quantise columns one by one and spread each column's rounding error over the columns still to come.

With inputs X, rounding W to Q costs |X (Q - W)^T|^2 = sum over rows of (q - w) G (q - w)^T, where G = X^T X. Columns
are rounded in turn, and what rounding one of them adds to the output is taken off by those still to come: GPTQ (arXiv
2210.17323), which orders the algebra so that one Cholesky factor U of G^-1 says how. A group's scale is chosen when
its turn comes, by the error that cannot be made up for any more, weighted 1/U_jj^2.

Deliberate difference: G is kept in blocks on its diagonal (vprm_export.precision.calibration_file), so errors are made
up for inside a block of channels only. For an 8 B model whole matrices would be 33 GB; blocks of 512 are 1.7 GB.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Array = NDArray[Any]
INT4_MAX = 7  # codes go from -8, but a scale is taken so that the largest weight of a group has 7
TINY = 1e-20  # smallest absmax that a scale is made of, so that rows of zeros divide by something
_CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_DAMPING = 0.01  # of the mean diagonal: keeps inputs that calibration hardly saw from dominating


@dataclass(frozen=True)
class Rounding:
    """How groups of weights are rounded: a scale an output [out], for columns [group, out] weighted [group]; codes."""

    group: int
    scale: Callable[[FloatArray, FloatArray], FloatArray]
    codes: Callable[[FloatArray, FloatArray], Array]  # of values [.., out] with scales [out]


def gptq_factors(hessian: FloatArray) -> FloatArray:
    """U [blocks, b, b] of G [blocks, b, b]: upper triangular, U^T U = (G + damping)^-1; the identity if G is 0."""
    factors = np.empty_like(hessian)
    for block, values in enumerate(hessian):
        g = values.astype(np.float64)
        mean = np.trace(g) / len(g)
        g[np.diag_indices_from(g)] += _DAMPING * mean if mean > 0 else 1.0
        factors[block] = np.linalg.cholesky(np.linalg.inv(g)).T
    return factors


def rounded_rows(rows: FloatArray, factors: FloatArray | None, rounding: Rounding) -> tuple[Array, FloatArray]:
    """Codes [out, in] and scales [out, in/group] of W [out, in]; `factors` None: every input counts alike."""
    outputs, inputs = rows.shape
    group, width = rounding.group, rounding.group if factors is None else factors.shape[1]
    codes, scales = [], []
    for block in range(inputs // width):
        left = rows[:, block * width : (block + 1) * width].T.copy()  # [b, out]: what is still to be rounded
        upper = np.eye(width, dtype=np.float32) if factors is None else factors[block]
        for start in range(0, width, group):
            end = start + group
            scale = rounding.scale(left[start:end], np.float32(1) / np.square(np.diagonal(upper)[start:end]))
            errors = np.empty((group, outputs), np.float32)
            for j in range(start, end):
                code = rounding.codes(left[j], scale)
                errors[j - start] = (left[j] - code.astype(np.float32) * scale) / upper[j, j]
                if factors is not None:
                    left[j + 1 : end] -= np.outer(upper[j, j + 1 : end], errors[j - start])
                codes.append(code)
            left[end:] -= upper[start:end, end:].T @ errors
            scales.append(scale)
    return np.stack(codes, axis=1), np.stack(scales, axis=1)


def int4_rounding(group: int, scale_dtype: np.dtype[Any]) -> Rounding:
    """int4 codes; of several clipped ranges each output has the one with the least weighted error."""

    def searched(columns: FloatArray, weights: FloatArray) -> FloatArray:
        absmax = np.abs(columns).max(axis=0)
        best: FloatArray = np.empty_like(absmax)
        best_error = np.full(absmax.shape, np.inf, np.float32)
        for ratio in _CLIP_RATIOS:
            scale = stored_scale(absmax * np.float32(ratio), INT4_MAX, scale_dtype)
            error = weights @ np.square(int4_codes(columns, scale) * scale - columns)
            better = error < best_error
            best, best_error = np.where(better, scale, best), np.where(better, error, best_error)
        return best

    return Rounding(group, searched, int4_codes)


def int4_codes(values: FloatArray, scale: FloatArray) -> NDArray[np.int8]:
    """Nearest codes of values [.., out]."""
    codes: NDArray[np.int8] = np.clip(np.rint(values / scale), -INT4_MAX - 1, INT4_MAX).astype(np.int8)
    return codes


def stored_scale(absmax: FloatArray, largest_code: float, scale_dtype: np.dtype[Any]) -> FloatArray:
    """absmax / largest_code as `scale_dtype` can hold it, in float32; never 0."""
    smallest = TINY if scale_dtype == np.float32 else float(np.finfo(scale_dtype).smallest_normal)
    scales: FloatArray = np.maximum(absmax / np.float32(largest_code), np.float32(smallest)).astype(np.float32)
    return scales.astype(scale_dtype).astype(np.float32)
