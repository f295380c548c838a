"""A quantised weight on its way to a graph: codes and scales come from one reading of the checkpoint's tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_export.precision.quantizers import FP8, FloatArray, packed_int4, quantized_blocks
from vprm_export.precision.recipe import GPTQ_KINDS, WeightKind, group_size
from vprm_export.weights import Weight, transpose_into


@dataclass(frozen=True)
class Layout:
    """How a Linear's weight is stored, and the second moments of its inputs (see `quantized_weight`)."""

    kind: WeightKind
    scale_dtype: np.dtype[Any]
    hessian: Callable[[], FloatArray | None] = lambda: None


class QuantizedWeight:
    """Codes [in, out] and scales of a Linear [out, in], made when the codes are written and then forgotten."""

    def __init__(self, weight: Weight, layout: Layout) -> None:
        self._weight = weight
        self._layout = layout
        self._scales: FloatArray | None = None

    @property
    def codes(self) -> Weight:
        """int8 [in, out], int4 [in, out] packed to uint8 [in*out/2], or float8_e4m3fn [in, out]."""
        outputs, inputs = self._weight.shape
        return Weight(f"{self._weight.name}.codes", (inputs, outputs), self._load_codes)

    @property
    def scales(self) -> Weight:
        """[out] a channel, [in/group, out] a group, [] for the whole tensor."""
        outputs, inputs = self._weight.shape
        kind = self._layout.kind
        shape: tuple[int, ...] = (outputs,) if kind == "int8_channel" else (inputs // group_size(inputs), outputs)
        return Weight(f"{self._weight.name}.scale", () if kind == "fp8_tensor" else shape, self._load_scales)

    def _load_codes(self) -> NDArray[Any]:
        kind, scale_dtype = self._layout.kind, self._layout.scale_dtype
        hessian = self._layout.hessian() if kind in GPTQ_KINDS else None
        outputs, inputs = self._weight.shape
        codes = np.empty((inputs, outputs), FP8 if kind == "fp8_tensor" else np.int8)
        scales: list[FloatArray] = []
        start = 0
        for part in quantized_blocks(self._weight.blocks, inputs, kind, scale_dtype, hessian):
            transpose_into(codes[:, start : start + len(part.codes)], part.codes)
            start += len(part.codes)
            scales.append(part.scales)
        self._scales = scales[0] if kind == "fp8_tensor" else np.concatenate(scales)
        return packed_int4(codes) if kind == "int4_group" else codes

    def _load_scales(self) -> FloatArray:
        if self._scales is None:
            self._load_codes()
        scales = self._scales if self._scales is not None else np.zeros(0, np.float32)
        return scales.reshape(()) if self._layout.kind == "fp8_tensor" else scales.T
