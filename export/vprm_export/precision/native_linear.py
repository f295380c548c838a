"""Linears for target cpu-native: one operator each, weights stored in the order in which its kernels read them.

The layout is that of runtime/native/linear.h. Scales, codes and the rounding of inputs are those of the standard
operators' recipes: int8 a channel with inputs int8 a token, or int8 and int4 a group with inputs int8 a token's group.
bf16 has bfloat16 weights and inputs, without scales.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vprm_export.graphs.builder import FLOAT32, FusedLinear, GraphBuilder
from vprm_export.precision.quantizers import FloatArray, quantized_blocks
from vprm_export.precision.recipe import GPTQ_KINDS, WeightKind, group_size
from vprm_export.weights import BFLOAT16, Weight
from vprm_runtime import native
from vprm_runtime.native import Activation

PANEL = native.PANEL_OUTPUTS
_TILE_OUTPUTS = 16
_PANELS_AT_A_TIME = 8
_BF16_CHUNK = native.CHUNK_INPUTS // 2


@dataclass(frozen=True)
class NativeLinear(FusedLinear):
    """The operator vprm::Linear; its product, bias, activation and residual are one node."""

    kind: WeightKind
    hessian: Callable[[], FloatArray | None] = lambda: None  # [blocks, b, b], see `quantized_weight`

    def fused(
        self,
        graph: GraphBuilder,
        value: ir.Value,
        weight: Weight,
        bias: Weight | None = None,
        residual: ir.Value | None = None,
        activation: Activation = Activation.IDENTITY,
    ) -> ir.Value:
        """f(X W^T + b) + residual; float32."""
        return self._node(graph, value, weight, weight.shape[0], bias, residual, activation)

    def gated(self, graph: GraphBuilder, value: ir.Value, gate: Weight, up: Weight) -> ir.Value:
        """silu(X G^T) * X U^T [.., mlp]; float32."""
        weight = alternating(gate, up)
        return self._node(graph, value, weight, gate.shape[0], None, None, Activation.SILU_GATE)

    def _node(
        self,
        graph: GraphBuilder,
        value: ir.Value,
        weight: Weight,
        outputs: int,
        bias: Weight | None,
        residual: ir.Value | None,
        activation: Activation,
    ) -> ir.Value:
        packed = Bf16Weight(weight) if self.kind == "bf16" else PackedWeight(weight, self.kind, self.hessian)
        codes = graph.stored(packed.codes, ir.DataType.UINT8)
        scales = None if packed.scales is None else graph.weight(packed.scales, FLOAT32)
        biases = None if bias is None else graph.weight(_padded(bias), FLOAT32)
        return graph.native(
            "Linear", value, codes, scales, biases, residual,
            inputs=weight.shape[1], outputs=outputs, group=packed.group, bits=packed.bits,
            activation=int(activation), layout=native.LAYOUT,
        )  # fmt: skip


class PackedWeight:
    """Codes and scales of a Linear [out, in] in the kernels' order, made when the codes are written."""

    def __init__(self, weight: Weight, kind: WeightKind, hessian: Callable[[], FloatArray | None]) -> None:
        outputs, inputs = weight.shape
        self.bits = 4 if kind == "int4_group" else 8
        self.group = 0 if kind == "int8_channel" else group_size(inputs)
        self._weight = weight
        self._kind: WeightKind = kind
        self._hessian = hessian
        self._chunk = min(self.group or native.CHUNK_INPUTS, native.CHUNK_INPUTS)
        self._chunks = -(-inputs // self._chunk)
        self._panels = -(-outputs // PANEL)
        self._scales: FloatArray | None = None

    @property
    def codes(self) -> Weight:
        """uint8 [panels, bytes of a panel]."""
        shape = (self._panels, PANEL * self._chunks * self._chunk * self.bits // 8)
        return Weight(f"{self._weight.name}.packed", shape, lambda: np.concatenate(list(self._blocks())), self._blocks)

    @property
    def scales(self) -> Weight:
        """float32 [panels, groups, 32]."""
        groups = self._weight.shape[1] // self.group if self.group else 1
        return Weight(f"{self._weight.name}.scale", (self._panels, groups, PANEL), self._load_scales)

    def _blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Some panels at a time."""
        outputs, inputs = self._weight.shape
        hessian = self._hessian() if self._kind in GPTQ_KINDS else None
        scales: list[FloatArray] = []
        waiting = np.zeros((0, inputs), np.int8)
        for part in quantized_blocks(self._weight.blocks, inputs, self._kind, FLOAT32, hessian):
            scales.append(part.scales.reshape(len(part.codes), -1))
            waiting = np.concatenate([waiting, part.codes])
            if len(waiting) >= PANEL * _PANELS_AT_A_TIME:
                whole = len(waiting) // PANEL * PANEL
                yield packed_codes(waiting[:whole], self.bits, self._chunk)
                waiting = waiting[whole:]
        if len(waiting):
            missing = self._panels * PANEL - outputs
            yield packed_codes(np.pad(waiting, ((0, missing), (0, 0))), self.bits, self._chunk)
        self._scales = np.concatenate(scales)

    def _load_scales(self) -> FloatArray:
        if self._scales is None:
            for _ in self._blocks():
                pass
        scales = self._scales if self._scales is not None else np.zeros((0, 1), np.float32)
        padded = np.pad(scales, ((0, self._panels * PANEL - len(scales)), (0, 0)))
        return np.ascontiguousarray(padded.reshape(self._panels, PANEL, -1).transpose(0, 2, 1))


class Bf16Weight:
    """A Linear [out, in] in bfloat16 and the kernels' order; as it is if the checkpoint has bfloat16, else rounded."""

    bits = 16
    group = 0
    scales = None

    def __init__(self, weight: Weight) -> None:
        self._weight = weight

    @property
    def codes(self) -> Weight:
        """uint8 [panels, bytes of a panel]."""
        outputs, inputs = self._weight.shape
        shape = (-(-outputs // PANEL), PANEL * -(-inputs // _BF16_CHUNK) * _BF16_CHUNK * 2)
        return Weight(f"{self._weight.name}.packed", shape, lambda: np.concatenate(list(self._blocks())), self._blocks)

    def _blocks(self) -> Iterator[NDArray[np.uint8]]:
        for panel in _panels(self._weight):
            yield packed_bfloat16(panel.astype(BFLOAT16, copy=False))


def packed_bfloat16(values: NDArray[Any]) -> NDArray[np.uint8]:
    """bfloat16 [outputs, inputs], outputs a multiple of 32, in the layout of linear.h; uint8 [panels, bytes]."""
    padded = np.pad(values.view(np.uint16), ((0, 0), (0, -values.shape[1] % _BF16_CHUNK)))
    pairs = padded.view(np.uint32).reshape(-1, 2, _TILE_OUTPUTS, padded.shape[1] // _BF16_CHUNK, _BF16_CHUNK // 2)
    ordered = np.ascontiguousarray(pairs.transpose(0, 3, 1, 4, 2))  # [panels, chunks, 2, pairs, 16]
    return ordered.view(np.uint8).reshape(len(values) // PANEL, -1)


def packed_codes(codes: NDArray[np.int8], bits: int, chunk: int) -> NDArray[np.uint8]:
    """Codes [outputs, inputs], outputs a multiple of 32, in the layout of linear.h; uint8 [panels, bytes]."""
    outputs, inputs = codes.shape
    padded = np.pad(codes, ((0, 0), (0, -inputs % chunk)))
    stored = padded.view(np.uint8) + np.uint8(128 if bits == 8 else 8)
    quads = stored.view(np.uint32).reshape(-1, 2, _TILE_OUTPUTS, stored.shape[1] // chunk, chunk // 4)
    ordered = np.ascontiguousarray(quads.transpose(0, 3, 1, 4, 2)).view(np.uint8)  # [panels, chunks, 2, quads, 64]
    if bits == 4:
        half = chunk // 8
        ordered = ordered[:, :, :, :half] | ordered[:, :, :, half:] << np.uint8(4)
    return ordered.reshape(outputs // PANEL, -1)


def alternating(gate: Weight, up: Weight) -> Weight:
    """Panels of 32 rows in turns, gates first; both are padded with zeros to whole panels."""
    rows = -(-gate.shape[0] // PANEL) * PANEL

    def blocks() -> Iterator[NDArray[Any]]:
        for pair in zip(_panels(gate), _panels(up), strict=True):
            yield np.concatenate(pair)

    name = f"{gate.name}.gated"
    return Weight(name, (2 * rows, gate.shape[1]), lambda: np.concatenate(list(blocks())), blocks)


def _panels(weight: Weight) -> Iterator[NDArray[Any]]:
    """Rows of a weight by 32, the last ones padded with zeros."""
    waiting: NDArray[Any] | None = None
    for block in weight.blocks():
        waiting = block if waiting is None or not len(waiting) else np.concatenate([waiting, block])
        whole = len(waiting) // PANEL * PANEL
        for start in range(0, whole, PANEL):
            yield waiting[start : start + PANEL]
        waiting = waiting[whole:]
    if waiting is not None and len(waiting):
        yield np.pad(waiting, ((0, PANEL - len(waiting)), (0, 0)))


def _padded(bias: Weight) -> Weight:
    """A bias with zeros for the outputs that pad the last panel."""
    missing = -bias.shape[0] % PANEL
    return Weight(bias.name, (bias.shape[0] + missing,), lambda: np.pad(bias.load().astype(np.float32), (0, missing)))
