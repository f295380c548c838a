"""Smoothing: factors that move outliers of a Linear's inputs into its weight, chosen by the error they leave.

X W^T = (X / s) (W s)^T for any s > 0 a channel. Whoever makes X divides by s beforehand (a norm's weight, the rows of
the Linear before), so the graph stays the same; what changes is how much rounding hurts. Candidates are those of
SmoothQuant (arXiv 2211.10438: s = max|X|^a / max|W|^(1-a)) and AWQ (arXiv 2306.00978: s = rms(X)^a), each for several
a, and s = 1. Deliberate difference: a is chosen for each Linear, by the relative error of its outputs on sampled
tokens under the recipe's own rounding, so that a massive first token weighs no more than any other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vprm_export.precision.calibration_file import FloatArray, LinearStatistics
from vprm_export.precision.quantizers import Array, fake_quantized_inputs, quantized_weight, static_scale
from vprm_export.precision.recipe import GPTQ_KINDS, Recipe
from vprm_export.weights import Weight

_SMOOTHQUANT_POWERS = (0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
_AWQ_POWERS = (0.25, 0.5, 0.75, 1.0)
_RANGE_RATIOS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2)
_SEARCH_ROWS = 256  # of W, evenly spaced: enough to tell candidates apart
_LARGEST_FACTOR = 1e4

SharedShape = tuple[int, int, int]
"""[kv_heads, queries a kv head, head_dim]: input channels that differ in the middle only must have the same factor."""


@dataclass(frozen=True)
class SmoothedLinear:
    """What calibration decides for one Linear."""

    factors: FloatArray  # [in] s
    input_absmax: float  # range of X / s that a static scale covers
    relative_error: float  # mean over samples of |difference of outputs|^2 / |outputs|^2


def smoothed_linear(
    weights: Sequence[Weight], statistics: LinearStatistics, recipe: Recipe, shared: SharedShape | None = None
) -> SmoothedLinear:
    """Choose factors for the Linears `weights` [out_n, in] that share one input."""
    absmax, rows = _absmax_and_rows(weights)
    candidates = _candidates(
        _pooled(statistics.absmax, shared),
        _pooled(np.sqrt(statistics.mean_square).astype(np.float32), shared),
        _pooled(absmax, shared),
    )
    return min((_measured(factors, rows, statistics, recipe) for factors in candidates), key=_relative_error)


def divided_hessian(hessian: FloatArray, factors: FloatArray) -> FloatArray:
    """Second moments [blocks, b, b] of X / s."""
    inverse = (np.float32(1) / factors).reshape(len(hessian), -1)
    divided: FloatArray = hessian * inverse[:, :, None] * inverse[:, None, :]
    return divided


def _relative_error(linear: SmoothedLinear) -> float:
    return linear.relative_error


def _absmax_and_rows(weights: Sequence[Weight]) -> tuple[FloatArray, FloatArray]:
    """max|W| of each input channel [in], and some rows of W [<= _SEARCH_ROWS, in]."""
    outputs = sum(weight.shape[0] for weight in weights)
    step = max(1, outputs // _SEARCH_ROWS)
    maxima, rows = [], []
    for weight in weights:
        values: Array = weight.load()
        maxima.append(np.maximum(values.max(axis=0), -values.min(axis=0)).astype(np.float32))
        rows.append(values[::step].astype(np.float32))
    return np.maximum.reduce(maxima), np.concatenate(rows)


def _pooled(values: FloatArray, shared: SharedShape | None) -> FloatArray:
    """[in] -> [in], the largest of each set of channels that share a factor."""
    if shared is None:
        return values
    largest = values.reshape(shared).max(axis=1, keepdims=True)
    return np.broadcast_to(largest, shared).reshape(-1)


def _candidates(absmax: FloatArray, rms: FloatArray, weight_absmax: FloatArray) -> Iterator[FloatArray]:
    """Factors [in] to try; channels that are always 0, in X or in W, have 1."""
    yield np.ones_like(absmax)
    live = (absmax > 0) & (rms > 0) & (weight_absmax > 0)
    x, r, w = (np.where(live, values, 1).astype(np.float64) for values in (absmax, rms, weight_absmax))
    raw = [x**a / w ** (1 - a) for a in _SMOOTHQUANT_POWERS] + [r**a for a in _AWQ_POWERS]
    for factors in raw:
        centred = factors / np.exp(np.log(factors[live]).mean()) if live.any() else factors
        yield np.where(live, np.clip(centred, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR), 1).astype(np.float32)


def _measured(factors: FloatArray, rows: FloatArray, statistics: LinearStatistics, recipe: Recipe) -> SmoothedLinear:
    """The error that `factors` leave on the samples, with the best static range if the recipe has one."""
    dtype = np.dtype(recipe.float_dtype)
    hessian = divided_hessian(statistics.hessian, factors) if recipe.weights in GPTQ_KINDS else None
    weight = quantized_weight(rows * factors, recipe.weights, dtype, hessian).dequantized()
    wanted = statistics.samples @ rows.T  # [R, rows]
    size = np.maximum((wanted * wanted).sum(axis=1), np.float32(1e-20))
    inputs = statistics.samples / factors
    absmax = float((statistics.absmax / factors).max())
    best = SmoothedLinear(factors, absmax, np.inf)
    for ratio in _RANGE_RATIOS if recipe.activations == "int8_static" else (1.0,):
        scale = static_scale(absmax * ratio, recipe.activations, dtype)
        difference = fake_quantized_inputs(inputs, recipe.activations, scale) @ weight.T - wanted
        error = float(((difference * difference).sum(axis=1) / size).mean())
        if error < best.relative_error:
            best = SmoothedLinear(factors, absmax * ratio, error)
    return best
