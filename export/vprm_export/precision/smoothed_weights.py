"""LLM weights with smoothing factors folded in: the graph is the same, the numbers in it are easier to round.

| Linear  | its inputs come from | where 1/s goes                                  |
|---------|----------------------|-------------------------------------------------|
| qkv     | the attention norm   | the norm's weight                               |
| o       | attention's values   | rows of the value projection (and its bias)     |
| gate_up | the MLP's norm       | the norm's weight                               |
| down    | silu(gate) * up      | rows of the up projection                       |

With grouped queries several heads of `o`'s input are sums of the same value rows, so they share their factors.
"""

from collections.abc import Callable

import numpy as np

from vprm_export.architecture import LlmArchitecture
from vprm_export.graphs.llm_weights import LlmWeights
from vprm_export.precision.calibration_file import Calibration, FloatArray
from vprm_export.precision.linears import Role, linear_name
from vprm_export.precision.recipe import Recipe
from vprm_export.precision.smoothing import SmoothedLinear, divided_hessian, smoothed_linear
from vprm_export.weights import TensorReader, Weight, scaled


class Smoother:
    """Chooses each Linear's factors once, when they are first asked for; `excluded` ones are left as they are."""

    def __init__(
        self,
        llm: LlmArchitecture,
        reader: TensorReader,
        calibration: Calibration,
        recipe: Recipe,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        self._llm = llm
        self._weights = LlmWeights(llm, reader)
        self._calibration = calibration
        self._recipe = recipe
        self._excluded = excluded
        self._smoothed: dict[str, SmoothedLinear] = {}

    def linear(self, layer: int, role: Role) -> SmoothedLinear:
        """Factors and ranges of one Linear. Raises InputError if the calibration is of another model."""
        name = linear_name(layer, role)
        if name not in self._smoothed:
            shared = None
            if role == "o":
                kv_heads = self._llm.kv_heads
                shared = (kv_heads, self._llm.heads // kv_heads, self._llm.head_dim)
            statistics = self._calibration.statistics(name)
            self._smoothed[name] = smoothed_linear(self.linears(layer, role), statistics, self._recipe.of(role), shared)
        return self._smoothed[name]

    def hessian(self, layer: int, role: Role) -> FloatArray:
        """Second moments [blocks, b, b] of a Linear's inputs divided by its factors; large, so read anew."""
        hessian = self._calibration.statistics(linear_name(layer, role)).hessian
        return divided_hessian(hessian, self.factors(layer, role))

    def linears(self, layer: int, role: Role) -> tuple[Weight, ...]:
        """The weights of a Linear, as in the checkpoint."""
        weights = self._weights
        if role == "qkv":
            return weights.q_k_v(layer)
        if role == "o":
            return (weights.attention_output(layer),)
        return weights.gate_and_up(layer) if role == "gate_up" else (weights.down(layer),)

    def factors(self, layer: int, role: Role) -> FloatArray:
        """s [in] of one Linear."""
        linear = self.linear(layer, role)
        return np.ones_like(linear.factors) if linear_name(layer, role) in self._excluded else linear.factors

    def value_factors(self, layer: int) -> FloatArray:
        """s of the value projection's rows [kv_heads*head_dim]."""
        llm = self._llm
        return self.factors(layer, "o").reshape(llm.kv_heads, -1, llm.head_dim)[:, 0].reshape(-1)


class SmoothedLlmWeights(LlmWeights):
    """An LLM's weights by role, with each Linear's factors multiplied in and divided out before it."""

    def __init__(self, llm: LlmArchitecture, reader: TensorReader, smoother: Smoother) -> None:
        super().__init__(llm, reader)
        self._smoother = smoother

    def attention_norm(self, layer: int) -> Weight:
        """Norm before attention [hidden], divided by qkv's factors."""
        return scaled(super().attention_norm(layer), rows=self._inverse(layer, "qkv"))

    def mlp_norm(self, layer: int) -> Weight:
        """Norm before the MLP [hidden], divided by gate_up's factors."""
        return scaled(super().mlp_norm(layer), rows=self._inverse(layer, "gate_up"))

    def q_k_v(self, layer: int) -> tuple[Weight, Weight, Weight]:
        """Projections for norms divided by qkv's factors; the value rows divided by o's."""
        q, k, v = (scaled(weight, columns=self._factors(layer, "qkv")) for weight in super().q_k_v(layer))
        return q, k, scaled(v, rows=self._inverse_values(layer))

    def q_k_v_biases(self, layer: int) -> tuple[Weight, Weight, Weight] | None:
        """Biases; the values' divided by o's factors."""
        biases = super().q_k_v_biases(layer)
        if biases is None:
            return None
        q, k, v = biases
        return q, k, scaled(v, rows=self._inverse_values(layer))

    def attention_output(self, layer: int) -> Weight:
        """Projection after attention over divided values."""
        return scaled(super().attention_output(layer), columns=self._factors(layer, "o"))

    def gate_and_up(self, layer: int) -> tuple[Weight, Weight]:
        """Projections for norms divided by gate_up's factors; the up rows divided by down's."""
        gate, up = (scaled(weight, columns=self._factors(layer, "gate_up")) for weight in super().gate_and_up(layer))
        return gate, scaled(up, rows=self._inverse(layer, "down"))

    def down(self, layer: int) -> Weight:
        """The MLP's output projection over divided values."""
        return scaled(super().down(layer), columns=self._factors(layer, "down"))

    def _factors(self, layer: int, role: Role) -> Callable[[], FloatArray]:
        return lambda: self._smoother.factors(layer, role)

    def _inverse(self, layer: int, role: Role) -> Callable[[], FloatArray]:
        return lambda: np.float32(1) / self._smoother.factors(layer, role)

    def _inverse_values(self, layer: int) -> Callable[[], FloatArray]:
        return lambda: np.float32(1) / self._smoother.value_factors(layer)
