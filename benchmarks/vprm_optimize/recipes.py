"""Recipes: ways to make a bundle of a checkpoint. Which are tried for a target, and in what order."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vprm_export import ExportOptions
from vprm_optimize.targets import Layout, Target
from vprm_runtime.bundle.manifest import Precision

Goal = Literal["latency", "throughput", "size", "exact"]
GOALS: tuple[Goal, ...] = ("latency", "throughput", "size", "exact")
Groups = tuple[tuple["Recipe", ...], ...]
_KEPT_HIGH_OF_SITES = 8  # one Linear in eight stays in floating point
_FP8_CAPABILITY = 89
FLOATING: tuple[Precision, ...] = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Recipe:
    """How a bundle is exported, and on which device of `--device` it is meant to run."""

    precision: Precision
    vision: Precision
    layout: Layout = "cpu"
    keep_high: int = 0
    device: str = "cpu"

    @property
    def name(self) -> str:
        """A name for people and for folders."""
        parts: list[str] = [self.precision]
        if self.keep_high:
            parts.append(f"keep-high-{self.keep_high}")
        if self.vision not in ((self.precision,) if self.precision in FLOATING else ("fp32", "fp16")):
            parts.append(f"vision-{self.vision}")
        if self.layout == "cpu-native":
            parts.append("native")
        if self.device not in ("cpu", "auto"):
            parts.append(self.device)
        return "-".join(parts)

    @property
    def is_calibrated(self) -> bool:
        """Whether the export takes a calibration."""
        return self.precision not in FLOATING

    def export_arguments(self) -> list[str]:
        """Options of `vprm export` that make this bundle."""
        arguments = ["--precision", self.precision, "--vision-precision", self.vision]
        if self.layout != "cpu":
            arguments += ["--target", self.layout]
        if self.keep_high:
            arguments += ["--keep-high", str(self.keep_high)]
        return [*arguments, *(["--calibration", "calibration.safetensors"] if self.is_calibrated else [])]


def recipe_groups(target: Target, goal: Goal, layers: int, is_small: bool) -> Groups:
    """Recipes to try. A group is tried when no recipe of the groups before it held the budget.

    Of small models all layouts of a precision are in one group and all are timed, since which one is fastest is not
    known in advance; of large ones every recipe is a group of its own, in order of expected speed, and none needs
    sensitivities, which take hours there.
    """
    if goal == "exact":
        return ((Recipe("fp16", "fp16", "cpu", device="auto") if target.is_gpu else Recipe("fp32", "fp32"),),)
    groups = _gpu_groups(target, goal) if target.is_gpu else _cpu_groups(target, goal, layers)
    if not is_small:
        kept = (recipe for group in groups for recipe in group if not (_is_rival(recipe, target) or recipe.keep_high))
        return tuple((recipe,) for recipe in kept)
    return groups


def _is_rival(recipe: Recipe, target: Target) -> bool:
    """Whether a recipe is only another layout of one that is expected to be faster."""
    return recipe.device == "openvino" or (
        target.layout == "cpu-native" and recipe.layout == "cpu" and recipe.is_calibrated
    )


def _cpu_groups(target: Target, goal: Goal, layers: int) -> Groups:
    layout = target.layout
    half = [Recipe("bf16", "bf16", layout)] if target.has_bf16 else []
    if goal == "size":
        return (
            (Recipe("w4", "int8", layout), Recipe("w4", "fp32", layout)),
            (Recipe("int8", "int8", layout), Recipe("w8", "int8", layout)),
            (Recipe("int8", "fp32", layout), Recipe("w8", "fp32", layout)),
            (*half, Recipe("fp16", "fp16")),
            (Recipe("fp32", "fp32"),),
        )
    eight_bit = [Recipe("int8", "int8", layout), Recipe("int8", "fp32", layout)]
    if target.has_bf16:
        eight_bit.insert(1, Recipe("int8", "bf16", layout))
    if layout == "cpu-native":
        eight_bit += [replace(recipe, layout="cpu") for recipe in eight_bit if recipe.vision != "bf16"]
    if target.runs_here and importlib.util.find_spec("openvino") is not None:
        eight_bit.append(Recipe("int8", "fp16", layout, device="openvino"))  # its vision encoder in bfloat16
    kept = max(1, 4 * layers // _KEPT_HIGH_OF_SITES)
    return (
        tuple(eight_bit),
        (Recipe("int8", "fp32", layout, keep_high=kept),),
        (Recipe("w8", "fp32", layout),),
        *((recipe,) for recipe in half),
        (Recipe("fp32", "fp32"),),
    )


def _gpu_groups(target: Target, goal: Goal) -> Groups:
    eight_bit: list[Recipe] = []
    if (target.capability or 0) >= _FP8_CAPABILITY:
        eight_bit.append(Recipe("fp8", "fp16", "tensorrt", device="auto"))
    eight_bit.append(Recipe("int8", "fp16", "tensorrt", device="auto"))
    weights = (Recipe("w8", "fp16", "tensorrt", device="auto"),)
    floating = (Recipe("fp16", "fp16", "cpu", device="auto"),)
    if goal == "size":
        return ((Recipe("w4", "w8", "tensorrt", device="auto"),), tuple(eight_bit), weights, floating)
    return (tuple(eight_bit), weights, floating)


def export_options(recipe: Recipe, calibration: Path | None) -> ExportOptions:
    """How `vprm_export` makes a recipe's bundle; the prompt is the checkpoint's own."""
    return ExportOptions(
        precision=recipe.precision,
        vision_precision=recipe.vision,
        target=recipe.layout,
        calibration=calibration if recipe.is_calibrated else None,
        keep_high=recipe.keep_high,
    )
