"""Quantisers: float weights to codes and scales, and what quantised activations amount to, in NumPy.

Everything is symmetric: code 0 is 0.0, and rounding is to nearest, ties to even, as in ONNX's QuantizeLinear. W is a
Linear's weight [out, in] as checkpoints have it, X its inputs [tokens, in]; both float32.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vprm_export.precision.gptq import (
    TINY,
    Rounding,
    gptq_factors,
    int4_rounding,
    rounded_rows,
    stored_scale,
)
from vprm_export.precision.recipe import GROUP_SIZE, ActivationKind, WeightKind, group_size

FloatArray = NDArray[np.float32]
Array = NDArray[Any]

INT8_MAX = 127
FP8_MAX = 448.0  # the largest finite float8_e4m3fn
FP8: np.dtype[Any] = np.dtype(ml_dtypes.float8_e4m3fn)
_CHUNK_ELEMENTS = 1 << 17  # what a core's cache takes
_FEEDBACK_ROWS = 1024  # errors are fed back column by column: rows enough to make each step worth its call


@dataclass(frozen=True)
class Quantized:
    """Codes [out, in] (int8; int4 as int8 in -8..7; float8_e4m3fn) and float32 scales.

    Scales are [out] a channel, [out, in/group] a group, or [1] for the whole tensor.
    """

    codes: Array
    scales: FloatArray

    def dequantized(self) -> FloatArray:
        """float32 [out, in]."""
        values = self.codes.astype(np.float32)
        if self.scales.shape == (1,):
            return values * self.scales
        groups = self.scales.reshape(len(values), -1)
        result: FloatArray = (values.reshape(len(values), groups.shape[1], -1) * groups[:, :, None]).reshape(
            values.shape
        )
        return result


def quantized_weight(
    weight: Array, kind: WeightKind, scale_dtype: np.dtype[Any], hessian: FloatArray | None = None
) -> Quantized:
    """Quantise W [out, in] (any floating dtype).

    Scales are rounded to `scale_dtype` before codes are made, so codes fit the scale that is stored. With `hessian`
    [blocks, b, b], second moments of the Linear's inputs, int4 and fp8 errors are spread (see gptq).
    """
    parts = list(quantized_blocks(lambda: iter([weight]), weight.shape[1], kind, scale_dtype, hessian))
    scales = [part.scales for part in parts]
    codes = np.concatenate([part.codes for part in parts])
    return Quantized(codes, scales[0] if kind == "fp8_tensor" else np.concatenate(scales))


def quantized_blocks(
    blocks: Callable[[], Iterator[Array]],
    inputs: int,
    kind: WeightKind,
    scale_dtype: np.dtype[Any],
    hessian: FloatArray | None = None,
) -> Iterator[Quantized]:
    """As `quantized_weight`, some rows at a time, for a weight that comes in blocks of rows; fp8 reads them twice."""
    small = max(1, _CHUNK_ELEMENTS // inputs)
    if kind in ("int8_channel", "int8_group"):
        for rows in _chunks(blocks(), small):
            yield _int8_rows(rows, kind, scale_dtype)
        return
    if kind == "fp8_tensor":
        absmax = np.array(max(_absmax(rows).max() for rows in _chunks(blocks(), small)), np.float32)
        scale = stored_scale(absmax, FP8_MAX, scale_dtype)
        group = math.gcd(inputs, GROUP_SIZE)  # columns rounded before the rest is corrected; the scale is W's
        rounding = Rounding(group, lambda columns, weights: np.full(columns.shape[1], scale), fp8_codes)
    else:
        rounding = int4_rounding(group_size(inputs), scale_dtype)
    factors = None if hessian is None else gptq_factors(hessian)
    for rows in _chunks(_joined(blocks(), _FEEDBACK_ROWS), _FEEDBACK_ROWS):
        codes, scales = rounded_rows(rows, factors, rounding)
        yield Quantized(codes, scales[0, :1] if kind == "fp8_tensor" else scales)


def _chunks(blocks: Iterator[Array], rows: int) -> Iterator[FloatArray]:
    """At most so many rows at a time, in float32."""
    for block in blocks:
        for start in range(0, len(block), rows):
            yield block[start : start + rows].astype(np.float32)


def _joined(blocks: Iterator[Array], rows: int) -> Iterator[Array]:
    """Neighbouring blocks as one, until they have at least so many rows."""
    waiting: list[Array] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= rows:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _absmax(values: FloatArray) -> FloatArray:
    """Largest magnitude along the last axis."""
    result: FloatArray = np.maximum(values.max(axis=-1), -values.min(axis=-1))
    return result


def _int8_rows(rows: FloatArray, kind: WeightKind, scale_dtype: np.dtype[Any]) -> Quantized:
    outputs, inputs = rows.shape
    grouped = rows.reshape(outputs, -1, inputs if kind == "int8_channel" else group_size(inputs))
    scales = stored_scale(_absmax(grouped), INT8_MAX, scale_dtype)
    quotients = grouped / scales[:, :, None]
    np.rint(quotients, out=quotients)
    codes = np.clip(quotients, -INT8_MAX, INT8_MAX, out=quotients).astype(np.int8).reshape(rows.shape)
    return Quantized(codes, scales[:, 0] if kind == "int8_channel" else scales)


def fp8_codes(values: FloatArray, scale: FloatArray) -> Array:
    """float8_e4m3fn codes of float32 values, saturating as QuantizeLinear does (ml_dtypes alone overflows to NaN)."""
    codes: Array = np.clip(values / scale, -FP8_MAX, FP8_MAX).astype(FP8)
    return codes


def static_scale(absmax: float, kind: ActivationKind, scale_dtype: np.dtype[Any]) -> np.float32:
    """The constant scale of activations that go up to `absmax`."""
    largest = FP8_MAX if kind == "fp8_static" else INT8_MAX
    return np.float32(stored_scale(np.array([absmax], np.float32), largest, scale_dtype)[0])


def fake_quantized_inputs(inputs: FloatArray, kind: ActivationKind, scale: np.float32 | None = None) -> FloatArray:
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
        dequantized: FloatArray = fp8_codes(inputs, np.asarray(scale, np.float32)).astype(np.float32) * scale
        return dequantized
    clipped: FloatArray = np.clip(np.rint(inputs / scale), -128, 127).astype(np.float32) * scale
    return clipped


def packed_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Codes in -8..7, two a byte in row-major order, the first in the low half: ONNX's layout of INT4."""
    flat: NDArray[np.uint8] = codes.reshape(-1).view(np.uint8) & np.uint8(0xF)
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    packed: NDArray[np.uint8] = flat[0::2] | (flat[1::2] << np.uint8(4))
    return packed
