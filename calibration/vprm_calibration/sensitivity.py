"""How much each Linear alone costs: step-score error with that Linear quantised and everything else in floating point.

A Linear's product is made in NumPy under the recipe (its smoothing included) and put into its layer's segment; the
disturbed residual stream then goes through the remaining layers untouched. All streams go through a layer while it is
open, so memory stays that of one layer; streams lie on disk. For L layers and R sequences this is about 2 L^2 R runs
of one layer.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_calibration.layer_graphs import LayeredGraph, Segment, opened_segment
from vprm_calibration.sequences import stored_sequences, with_context
from vprm_calibration.statistics import Progress, load_arrays, read_statistics
from vprm_export.precision.linears import parse_linear_name
from vprm_export.precision.quantizers import fake_quantized_inputs, quantized_weight, static_scale
from vprm_export.precision.recipe import Recipe
from vprm_export.precision.smoothing import SharedShape, SmoothedLinear, divided_hessian, smoothed_linear
from vprm_export.weights import Weight
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.execution.probabilities import probabilities

Array = NDArray[Any]


def measure_sensitivity(
    layered: LayeredGraph,
    bundle: Bundle,
    work: Path,
    statistics: Mapping[str, Path],
    recipe: Recipe,
    sequences: int,
    progress: Progress,
) -> dict[str, float]:
    """Mean absolute step-score error by Linear, over the first `sequences` stored sequences."""
    directory = work / f"streams-{recipe.precision}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    names = [file.stem for file in stored_sequences(work)[:sequences]]
    runner = _Runner(layered, bundle, work, names, directory)
    runner.start()
    disturbed: list[str] = []
    for layer in range(layered.layers):
        for linear in layered.layer_linears(layer):
            runner.disturb(layer, linear, statistics[linear], recipe)
        runner.advance(layer, ["clean", *disturbed])
        disturbed += layered.layer_linears(layer)
        progress(f"sensitivity {recipe.precision}", layer + 1, layered.layers)
    errors = runner.errors(disturbed)
    shutil.rmtree(directory)
    return errors


class _Runner:
    """Residual streams on disk: `{stream}/{sequence}.npy`, where a stream is "clean" or that of a disturbed Linear."""

    def __init__(self, layered: LayeredGraph, bundle: Bundle, work: Path, names: list[str], directory: Path) -> None:
        self._layered = layered
        self._bundle = bundle
        self._work = work
        self._names = names
        self._directory = directory

    def start(self) -> None:
        """The clean stream before the first layer."""
        with opened_segment(self._layered, [], [self._layered.starts[0]], self._work) as segment:
            for name in self._names:
                self._save("clean", name, segment.run(self._feeds(name))[0])

    def advance(self, layer: int, streams: list[str]) -> None:
        """Run streams through a layer, in place."""
        start, end = self._layered.starts[layer], self._layered.end(layer)
        with opened_segment(self._layered, [start], [end], self._work) as segment:
            for stream in streams:
                for name in self._names:
                    feeds = {**self._feeds(name), str(start.name): self._load(stream, name)}
                    self._save(stream, name, segment.run(feeds)[0])

    def disturb(self, layer: int, linear: str, statistics: Path, recipe: Recipe) -> None:
        """Begin a stream: the clean one through this layer, with one Linear's products made under the recipe."""
        linears, recipe = self._layered.linears[linear], recipe.of(parse_linear_name(linear)[1])
        start, end = self._layered.starts[layer], self._layered.end(layer)
        weights = [linear.weight_values() for linear in linears]
        smoothed = self._smoothed(linear, weights, statistics, recipe)
        hessian = divided_hessian(read_statistics(statistics, linear).hessian, smoothed.factors)
        products: dict[str, list[Array]] = {name: [] for name in self._names}
        taps = [linear.value for linear in linears]
        with opened_segment(self._layered, [start], taps, self._work) as segment:
            for name in self._names:
                for values, weight in zip(self._run(segment, name, start.name), weights, strict=True):
                    product = emulated_product(values.astype(np.float32), weight, smoothed, recipe, hessian)
                    products[name].append(product.astype(self._layered.dtype))
        made = [linear.product for linear in linears]
        with opened_segment(self._layered, [start, *made], [end], self._work) as segment:
            for name in self._names:
                extra = {str(value.name): p for value, p in zip(made, products[name], strict=True)}
                self._save(linear, name, self._run(segment, name, start.name, extra)[0])

    def errors(self, linears: list[str]) -> dict[str, float]:
        """Mean absolute difference of step scores, once all streams are logits [K, C]."""
        rule = self._bundle.manifest.score_rule
        clean = np.concatenate([probabilities(self._load("clean", name), rule) for name in self._names])
        return {
            linear: float(
                np.abs(np.concatenate([probabilities(self._load(linear, n), rule) for n in self._names]) - clean).mean()
            )
            for linear in linears
        }

    def _smoothed(
        self, linear: str, weights: list[NDArray[np.float32]], statistics: Path, recipe: Recipe
    ) -> SmoothedLinear:
        model = self._bundle.manifest.model
        parts = [Weight(linear, weight.shape, lambda weight=weight: weight) for weight in weights]  # type: ignore[misc]
        shared: SharedShape | None = None
        if linear.endswith(".o"):
            shared = (model.kv_heads, weights[0].shape[1] // model.kv_width, model.head_dim)
        return smoothed_linear(parts, read_statistics(statistics, linear), recipe, shared)

    def _run(
        self, segment: Segment, name: str, start: str | None, extra: Mapping[str, Array] | None = None
    ) -> list[Array]:
        return segment.run({**self._feeds(name), str(start): self._load("clean", name), **(extra or {})})

    def _feeds(self, name: str) -> dict[str, Any]:
        stored = load_arrays(self._work / f"{name}.npz")
        return with_context(stored, self._layered.layers, self._bundle.manifest.model.kv_width, self._layered.dtype)

    def _save(self, stream: str, name: str, values: Array) -> None:
        (self._directory / stream).mkdir(exist_ok=True)
        np.save(self._directory / stream / f"{name}.npy", values)

    def _load(self, stream: str, name: str) -> Array:
        values: Array = np.load(self._directory / stream / f"{name}.npy")
        return values


def emulated_product(
    inputs: NDArray[np.float32],
    weight: NDArray[np.float32],
    smoothed: SmoothedLinear,
    recipe: Recipe,
    hessian: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """What a quantised Linear gives for inputs [tokens, in] and weight [out, in]; float32 [tokens, out]."""
    dtype = np.dtype(recipe.float_dtype)
    scale = static_scale(smoothed.input_absmax, recipe.activations, dtype)
    rounded = fake_quantized_inputs(inputs / smoothed.factors, recipe.activations, scale)
    quantized = quantized_weight(weight * smoothed.factors, recipe.weights, dtype, hessian).dequantized()
    product: NDArray[np.float32] = rounded @ quantized.T
    return product
