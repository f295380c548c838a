"""From what was asked for to how each graph is built: number types, weights and the format of every Linear."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vprm_export.architecture import LlmArchitecture
from vprm_export.graphs.builder import LinearFormat, LinearFormats
from vprm_export.graphs.llm import LlmDtypes
from vprm_export.graphs.llm_weights import LlmWeights
from vprm_export.precision.calibration_file import Calibration
from vprm_export.precision.linear_formats import Dequantized, HalfStored, StaticQdq, TokenInt8, TokenQdq
from vprm_export.precision.linears import linear_inputs, linear_names, parse_linear_name
from vprm_export.precision.native_linear import NativeLinear
from vprm_export.precision.quantizers import FloatArray
from vprm_export.precision.recipe import FLOAT_DTYPES, Recipe, recipe_for
from vprm_export.precision.smoothed_weights import SmoothedLlmWeights, Smoother
from vprm_export.weights import BFLOAT16, TensorReader
from vprm_runtime.bundle.manifest import GraphInfo, Precision, Quantization, Target
from vprm_runtime.errors import InputError, UnsupportedError

FLOAT16 = np.dtype(np.float16)


@dataclass(frozen=True)
class PrecisionOptions:
    """What is asked for. `vision` None: the floating type of the LLM's precision.

    `keep_high`: how many Linears stay in floating point, the most sensitive ones of the calibration, or which ones.
    """

    llm: Precision = "fp32"
    vision: Precision | None = None
    target: Target = "cpu"
    calibration: Path | None = None
    keep_high: int | tuple[str, ...] = 0


@dataclass(frozen=True)
class LlmPlan:
    """How the LLM graph is built."""

    info: GraphInfo
    weights: LlmWeights
    numbers: LlmDtypes


@dataclass(frozen=True)
class VisionPlan:
    """How the vision graph is built."""

    info: GraphInfo
    linear_formats: LinearFormats = lambda linear: None
    native_attention: bool = False


def plan_llm(options: PrecisionOptions, llm: LlmArchitecture, reader: TensorReader) -> LlmPlan:
    """Plan the LLM graph. Raises UnsupportedError or InputError if something cannot be had together."""
    recipe = recipe_for(options.llm, options.target)
    if recipe is None:
        if options.target == "cpu-native":
            raise InputError(
                f"{options.llm} promises more than the bfloat16 attention of target cpu-native: use bf16, int8, w8 or "
                "w4, or --target cpu"
            )
        _refuse_tuning(options)
        dtype = np.dtype(FLOAT_DTYPES[options.llm])
        info = GraphInfo("llm.onnx", options.llm, FLOAT_DTYPES[options.llm])
        return LlmPlan(info, LlmWeights(llm, reader), LlmDtypes(dtype, dtype))
    if recipe.weights == "bf16":
        _refuse_tuning(options)
    calibration = None if options.calibration is None else Calibration.open(options.calibration)
    if calibration is not None:
        calibration.check_model(linear_inputs(llm))
    elif recipe.needs_calibration:
        raise InputError(
            f"{recipe.precision} for {recipe.target} needs --calibration FILE: make one with  vprm calibrate BUNDLE"
        )
    excluded = _excluded(options, llm, calibration, recipe)
    smoother = None if calibration is None else Smoother(llm, reader, calibration, recipe, frozenset(excluded))
    weights = LlmWeights(llm, reader) if smoother is None else SmoothedLlmWeights(llm, reader, smoother)
    formats = _Formats(recipe, smoother, frozenset(excluded))
    quantisation = Quantization(
        options.target, recipe.description, None if calibration is None else calibration.sha256, excluded
    )
    info = GraphInfo("llm.onnx", recipe.precision, recipe.float_dtype, quantisation)
    table_dtype = BFLOAT16 if recipe.weights == "bf16" else FLOAT16
    return LlmPlan(info, weights, LlmDtypes(np.dtype(recipe.float_dtype), table_dtype, formats, recipe.native))


def _refuse_tuning(options: PrecisionOptions) -> None:
    if options.calibration is not None or options.keep_high:
        raise InputError(f"--calibration and --keep-high are for quantised precisions, not for {options.llm}")


def plan_vision(options: PrecisionOptions) -> VisionPlan:
    """Plan the vision graph: floating point unless asked otherwise, and never calibrated."""
    llm_recipe = recipe_for(options.llm, options.target)
    floating: Precision = options.llm
    if llm_recipe is not None and options.llm != "bf16":
        floating = "fp32" if llm_recipe.float_dtype == "float32" else "fp16"
    precision = options.vision or floating
    recipe = recipe_for(precision, options.target)
    if recipe is None:
        return VisionPlan(GraphInfo("vision.onnx", precision, FLOAT_DTYPES[precision]))
    linear_format: LinearFormat
    if recipe.native and precision in ("int8", "w8", "bf16"):
        linear_format = NativeLinear(recipe.weights)
    elif recipe.weights == "int8_channel" and recipe.activations == "int8_token":
        linear_format = TokenInt8()
    elif precision == "w8":
        linear_format = Dequantized(recipe)
    else:
        raise UnsupportedError(
            f"the vision graph cannot be {precision} for {options.target}: "
            "use fp32, fp16 or w8 (any target), int8 (cpu) or bf16 (cpu-native)"
        )
    quantisation = Quantization(options.target, recipe.description, None, ())
    return VisionPlan(
        GraphInfo("vision.onnx", precision, recipe.float_dtype, quantisation),
        lambda linear: linear_format,
        recipe.native,
    )


def _excluded(
    options: PrecisionOptions, llm: LlmArchitecture, calibration: Calibration | None, recipe: Recipe
) -> tuple[str, ...]:
    if isinstance(options.keep_high, tuple):
        unknown = sorted(set(options.keep_high) - set(linear_names(llm.layers)))
        if unknown:
            raise InputError(
                f"no Linear {unknown[0]!r} to keep in floating point: names are layers.N.qkv, o, gate_up, down"
            )
        return options.keep_high
    if options.keep_high == 0:
        return ()
    if calibration is None:
        raise InputError(
            "--keep-high needs --calibration FILE with sensitivities: make one with  "
            f"vprm calibrate BUNDLE --sensitivity {recipe.precision}"
        )
    return calibration.most_sensitive(recipe.precision, options.keep_high)


@dataclass(frozen=True)
class _Formats:
    """The format of each Linear under one recipe."""

    recipe: Recipe
    smoother: Smoother | None
    excluded: frozenset[str]

    def __call__(self, linear: str) -> LinearFormat | None:
        if linear in self.excluded:
            return HalfStored()
        recipe = self.recipe.of(parse_linear_name(linear)[1])
        if recipe.native and recipe.activations in ("int8_token", "int8_token_group", "bf16"):
            return NativeLinear(recipe.weights, lambda: self._hessian(linear))
        if recipe.activations == "int8_token":
            return TokenInt8() if recipe.target == "cpu" else TokenQdq(recipe)
        if recipe.needs_calibration and self.smoother is not None:
            absmax = self.smoother.linear(*parse_linear_name(linear)).input_absmax
            return StaticQdq(recipe, absmax, lambda: self._hessian(linear))
        return Dequantized(recipe, lambda: self._hessian(linear))

    def _hessian(self, linear: str) -> FloatArray | None:
        return None if self.smoother is None else self.smoother.hessian(*parse_linear_name(linear))
