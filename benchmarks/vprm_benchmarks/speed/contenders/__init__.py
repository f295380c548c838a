"""Who takes part in speed benchmarks, on a CPU as on a GPU: one small protocol.

torch     PyTorch on transformers' model, in several ways
openvino  PyTorch's networks converted to OpenVINO
bundle    this package: a bundle on one of its engines
choice    contenders by name, for `vprm bench best-of-n`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.speed.workload import Workload

Scores = NDArray[np.float64]


class Contender(Protocol):
    """One way to score a request from its image and texts. Every call finishes its work on the device."""

    name: str
    calls: int  # calls of `scores` that make up the whole request
    pruned: bool  # whether the last layer runs for scored tokens only

    @property
    def description(self) -> str:
        """What runs where, for people."""
        ...

    @property
    def vision_s(self) -> float:
        """Seconds that tiling and the vision encoder have taken so far, of all calls."""
        ...

    def scores(self, work: Workload) -> Scores:
        """Step scores of the request's candidates, in order; of the first only if `calls` > 1."""
        ...

    def vision(self, work: Workload) -> None:
        """Tile and encode the image."""
        ...

    def prefill(self, tokens: int) -> Callable[[], object]:
        """A call that runs a block of `tokens` from an empty cache."""
        ...

    def tokens(self, work: Workload) -> list[int]:
        """Length of each candidate's prompt."""
        ...
