"""Precision recipes: what a precision's name means for the Linears of a graph, on each target.

| precision | target   | weights                      | activations                            | float type |
|-----------|----------|------------------------------|----------------------------------------|------------|
| int8      | cpu      | int8, a scale per channel    | int8, a scale per token, at run time   | float32    |
| int8      | tensorrt | int8, a scale per channel    | int8, one calibrated scale             | float16    |
| w8        | cpu      | int8, a scale per 128 inputs | float32                                | float32    |
| w8        | tensorrt | int8, a scale per channel    | float16                                | float16    |
| w4        | both     | int4, a scale per 128 inputs | float32 (cpu), float16 (tensorrt)      |            |
| fp8       | both     | E4M3, one scale              | E4M3, one calibrated scale             |            |
| bf16      | cpu-native | bfloat16, as it is in most checkpoints | bfloat16                   | float32    |

Channel means output channel. Some roles have a recipe of higher precision (`Recipe.of`): w4's queries, keys and values
are as w8's, and int8 for TensorRT divides the inputs of `down` by their token's absmax before the constant scale. If
128 does not divide the number of inputs, the group is the largest power of two that does. The default target is the
CPU; there ONNX Runtime turns the weight-only recipes' DequantizeLinear + MatMul into its MatMulNBits, which rounds
activations to int8 per token and group of inputs. Target cpu-native has cpu's recipes by the package's own operators
(vprm_runtime.native), and attention in bfloat16; bf16 is there only, since ONNX Runtime has no product of bfloat16 on
the CPU.
"""

from dataclasses import dataclass, replace
from typing import Literal

from vprm_export.precision.linears import ROLES, Role
from vprm_runtime.bundle.graph_io import FloatDType
from vprm_runtime.bundle.manifest import Precision, Target
from vprm_runtime.errors import UnsupportedError

WeightKind = Literal["int8_channel", "int8_group", "int4_group", "fp8_tensor", "bf16"]
GPTQ_KINDS: tuple[WeightKind, ...] = ("int4_group", "fp8_tensor")  # rounded by gptq.py
ActivationKind = Literal["float", "int8_token", "int8_token_group", "int8_static", "fp8_static", "bf16"]

_W8_IN_W4: tuple[Role, ...] = ("qkv",)
"""Rounding queries and keys to 4 bits changes what attends to what: on the demo PRM that is over half of w4's squared
error, at an eighth of the weights (docs/quantisation.md)."""
_TOKEN_SCALES_IN_STATIC: tuple[Role, ...] = ("down",)
"""The MLP's products differ between tokens by orders of magnitude, and no norm comes after them: with one constant
scale they lose 2 to 7% of an output on the demo PRM, other Linears 1% (docs/quantisation.md)."""
GROUP_SIZE = 128
_MIN_GROUP_SIZE = 16  # the smallest that ONNX Runtime's MatMulNBits takes


@dataclass(frozen=True)
class Recipe:
    """How the Linears of a graph are quantised. `activations` is what happens to them when the graph is run."""

    precision: Precision
    target: Target
    weights: WeightKind
    activations: ActivationKind
    float_dtype: FloatDType  # of everything that is not quantised
    native: bool = False  # attention, and Linears of 8-bit tokens, by this package's own operators

    @property
    def needs_calibration(self) -> bool:
        """Whether activation scales are constants of the graph."""
        return self.activations in ("int8_static", "fp8_static")

    @property
    def description(self) -> str:
        """For people and manifests."""
        kinds = {recipe: [role for role in ROLES if self.of(role) == recipe] for recipe in map(self.of, ROLES)}
        if len(kinds) == 1:
            return f"weights {self.weights}, activations {self.activations}"
        return "; ".join(
            f"{', '.join(roles)}: weights {recipe.weights}, activations {recipe.activations}"
            for recipe, roles in kinds.items()
        )

    def of(self, role: Role) -> "Recipe":
        """The recipe of the Linears in this role: if a precision would cost too much, a higher one."""
        if self.weights == "int4_group" and role in _W8_IN_W4:
            higher = next(recipe for recipe in _RECIPES if (recipe.precision, recipe.target) == ("w8", self.target))
            return replace(higher, native=self.native)
        if self.activations == "int8_static" and role in _TOKEN_SCALES_IN_STATIC:
            return replace(self, activations="int8_token")
        return self


_RECIPES = (
    Recipe("int8", "cpu", "int8_channel", "int8_token", "float32"),
    Recipe("int8", "tensorrt", "int8_channel", "int8_static", "float16"),
    Recipe("w8", "cpu", "int8_group", "int8_token_group", "float32"),
    Recipe("w8", "tensorrt", "int8_channel", "float", "float16"),
    Recipe("w4", "cpu", "int4_group", "int8_token_group", "float32"),
    Recipe("w4", "tensorrt", "int4_group", "float", "float16"),
    Recipe("fp8", "cpu", "fp8_tensor", "fp8_static", "float32"),
    Recipe("fp8", "tensorrt", "fp8_tensor", "fp8_static", "float16"),
)
_BF16 = Recipe("bf16", "cpu-native", "bf16", "bf16", "float32", native=True)
FLOAT_DTYPES: dict[Precision, FloatDType] = {"fp32": "float32", "fp16": "float16"}


def recipe_for(precision: Precision, target: Target) -> Recipe | None:
    """The recipe of a precision, None for the floating ones. Raises UnsupportedError on an unknown pair."""
    if precision in FLOAT_DTYPES:
        return None
    native = target == "cpu-native"
    if precision == "bf16":
        if native:
            return _BF16
        raise UnsupportedError(
            f"bf16 is for the package's own operators, not for target {target}: use  --target cpu-native , or fp16"
        )
    for recipe in _RECIPES:
        if (recipe.precision, recipe.target) == (precision, "cpu" if native else target):
            return replace(recipe, native=native)
    known = ", ".join(f"{recipe.precision} for {recipe.target}" for recipe in _RECIPES)
    raise UnsupportedError(f"no recipe for precision {precision!r} and target {target!r}; there are {known}")


def group_size(inputs: int) -> int:
    """Inputs that share a scale: 128, or the largest power of two below it that divides `inputs`."""
    size = GROUP_SIZE
    while size > _MIN_GROUP_SIZE and inputs % size:
        size //= 2
    if inputs % size:
        raise UnsupportedError(
            f"a Linear with {inputs} inputs cannot be quantised in groups of {size} or more: use int8 or fp16"
        )
    return size
