"""Quantisers: float weights to codes and scales, and what quantised activations amount to, in NumPy.

Everything is symmetric: code 0 is 0.0, and rounding is to nearest, ties to even, as in ONNX's QuantizeLinear. W is a
Linear's weight [out, in] as checkpoints have it, X its inputs [tokens, in]; both float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vprm_export.precision.recipe import ActivationKind, WeightKind, group_size

FloatArray = NDArray[np.float32]
Array = NDArray[Any]

INT8_MAX = 127
INT4_MAX = 7  # codes go from -8, but a scale is taken so that the largest weight of a group has 7
FP8_MAX = 448.0  # the largest finite float8_e4m3fn
FP8: np.dtype[Any] = np.dtype(ml_dtypes.float8_e4m3fn)
TINY = 1e-20  # smallest absmax that a scale is made of, so that rows of zeros divide by something
_CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_CHUNK_ELEMENTS = 1 << 17


@dataclass(frozen=True)
class Quantised:
    """Codes [out, in] (int8; int4 as int8 in -8..7; float8_e4m3fn) and float32 scales.

    Scales are [out] a channel, [out, in/group] a group, or [1] for the whole tensor.
    """

    codes: Array
    scales: FloatArray

    def dequantised(self) -> FloatArray:
        """float32 [out, in]."""
        values = self.codes.astype(np.float32)
        if self.scales.shape == (1,):
            return values * self.scales
        groups = self.scales.reshape(len(values), -1)
        result: FloatArray = (values.reshape(len(values), groups.shape[1], -1) * groups[:, :, None]).reshape(
            values.shape
        )
        return result


def quantised_weight(
    weight: Array, kind: WeightKind, scale_dtype: np.dtype[Any], importance: FloatArray | None = None
) -> Quantised:
    """Quantise W [out, in] (any floating dtype).

    Scales are rounded to `scale_dtype` before codes are made, so codes fit the scale that is stored. `importance` [in]
    weighs inputs where int4 scales are searched for: the mean square of the Linear's inputs.
    """
    parts = list(quantised_blocks(lambda: iter([weight]), kind, scale_dtype, importance))
    scales = [part.scales for part in parts]
    codes = np.concatenate([part.codes for part in parts])
    return Quantised(codes, scales[0] if kind == "fp8_tensor" else np.concatenate(scales))


def quantised_blocks(
    blocks: Callable[[], Iterator[Array]],
    kind: WeightKind,
    scale_dtype: np.dtype[Any],
    importance: FloatArray | None = None,
) -> Iterator[Quantised]:
    """As `quantised_weight`, a few rows at a time, for a weight that comes in blocks of rows; fp8 reads them twice."""
    if kind != "fp8_tensor":
        for rows in _chunks(blocks()):
            yield _int_rows(rows, kind, scale_dtype, importance)
        return
    absmax = max(float(_absmax(rows).max()) for rows in _chunks(blocks()))
    scales = _scale(np.array([absmax], np.float32), FP8_MAX, scale_dtype)
    for rows in _chunks(blocks()):
        yield Quantised(fp8_codes(rows, scales), scales)


def _chunks(blocks: Iterator[Array]) -> Iterator[FloatArray]:
    """Rows in float32, as many at a time as a core's cache takes."""
    for block in blocks:
        step = max(1, _CHUNK_ELEMENTS // block.shape[1])
        for start in range(0, len(block), step):
            yield block[start : start + step].astype(np.float32)


def _absmax(values: FloatArray) -> FloatArray:
    """Largest magnitude along the last axis."""
    result: FloatArray = np.maximum(values.max(axis=-1), -values.min(axis=-1))
    return result


def _int_rows(
    rows: FloatArray, kind: WeightKind, scale_dtype: np.dtype[Any], importance: FloatArray | None
) -> Quantised:
    outputs, inputs = rows.shape
    group = inputs if kind == "int8_channel" else group_size(inputs)
    grouped = rows.reshape(outputs, -1, group)  # [out, groups, group]
    if kind == "int4_group":
        weights = np.ones(inputs, np.float32) if importance is None else importance
        codes, scales = _searched_int4(grouped, scale_dtype, weights.reshape(-1, group))
    else:
        scales = _scale(_absmax(grouped), INT8_MAX, scale_dtype)
        codes = _rounded(grouped, scales, -INT8_MAX, INT8_MAX)
    return Quantised(codes.reshape(rows.shape), scales[:, 0] if kind == "int8_channel" else scales)


def _searched_int4(
    grouped: FloatArray, scale_dtype: np.dtype[Any], importance: FloatArray
) -> tuple[NDArray[np.int8], FloatArray]:
    """Codes and scales of [out, groups, group]: of several clipped ranges the one with the least weighted error."""
    absmax = _absmax(grouped)
    best_codes, best_scales = np.zeros(grouped.shape, np.int8), np.zeros(absmax.shape, np.float32)
    best_error = np.full(absmax.shape, np.inf, np.float32)
    for ratio in _CLIP_RATIOS:
        scales = _scale(absmax * np.float32(ratio), INT4_MAX, scale_dtype)
        codes = _rounded(grouped, scales, -INT4_MAX - 1, INT4_MAX)
        difference = codes * scales[:, :, None] - grouped
        error = np.einsum("ogi,gi->og", difference * difference, importance)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scales = np.where(better, scales, best_scales)
        best_codes = np.where(better[:, :, None], codes, best_codes)
    return best_codes, best_scales


def fp8_codes(values: FloatArray, scale: FloatArray) -> Array:
    """float8_e4m3fn codes of float32 values, saturating as QuantizeLinear does (ml_dtypes alone overflows to NaN)."""
    codes: Array = np.clip(values / scale, -FP8_MAX, FP8_MAX).astype(FP8)
    return codes


def _scale(absmax: FloatArray, largest_code: float, scale_dtype: np.dtype[Any]) -> FloatArray:
    """absmax / largest_code as `scale_dtype` can hold it, in float32; never 0."""
    smallest = TINY if scale_dtype == np.float32 else float(np.finfo(scale_dtype).smallest_normal)
    scales: FloatArray = np.maximum(absmax / np.float32(largest_code), np.float32(smallest)).astype(np.float32)
    return scales.astype(scale_dtype).astype(np.float32)


def _rounded(grouped: FloatArray, scales: FloatArray, lowest: int, highest: int) -> NDArray[np.int8]:
    quotients = grouped / scales[:, :, None]
    np.rint(quotients, out=quotients)
    codes: NDArray[np.int8] = np.clip(quotients, lowest, highest, out=quotients).astype(np.int8)
    return codes


def static_scale(absmax: float, kind: ActivationKind, scale_dtype: np.dtype[Any]) -> np.float32:
    """The constant scale of activations that go up to `absmax`."""
    largest = FP8_MAX if kind == "fp8_static" else INT8_MAX
    return np.float32(_scale(np.array([absmax], np.float32), largest, scale_dtype)[0])


def fake_quantised_inputs(inputs: FloatArray, kind: ActivationKind, scale: np.float32 | None = None) -> FloatArray:
    """X [tokens, in] after quantising and dequantising; `scale` for the static kinds."""
    if kind == "float":
        return inputs
    if kind in ("int8_token", "int8_token_group"):
        tokens, width = inputs.shape
        grouped = inputs.reshape(tokens, -1, width if kind == "int8_token" else group_size(width))
        scales = np.maximum(np.abs(grouped).max(axis=2, keepdims=True), np.float32(TINY)) * np.float32(1 / INT8_MAX)
        result: FloatArray = (np.rint(grouped / scales) * scales).reshape(inputs.shape).astype(np.float32)
        return result
    if scale is None:
        raise ValueError(f"activations {kind} need a scale")
    if kind == "fp8_static":
        dequantised: FloatArray = fp8_codes(inputs, np.asarray(scale, np.float32)).astype(np.float32) * scale
        return dequantised
    clipped: FloatArray = np.clip(np.rint(inputs / scale), -128, 127).astype(np.float32) * scale
    return clipped


def packed_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes in -8..7, two a byte in row-major order, the first in the low half: ONNX's layout of INT4."""
    flat: NDArray[np.uint8] = codes.reshape(-1).view(np.uint8) & np.uint8(0xF)
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    packed: NDArray[np.uint8] = flat[0::2] | (flat[1::2] << np.uint8(4))
    return packed
