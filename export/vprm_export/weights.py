"""Weights on their way from a checkpoint to a graph: checked when the graph is built, read only when it is written."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_export.checkpoint import Checkpoint
from vprm_runtime.errors import CheckpointError, UnsupportedError

Array = NDArray[Any]


@dataclass(frozen=True)
class Weight:
    """A tensor of a graph: its shape, and how to get its values (any floating dtype) when they are needed."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Array]

    def transposed(self) -> "Weight":
        """[out, in] of a checkpoint's Linear as the [in, out] of a matrix product."""
        return Weight(self.name, self.shape[::-1], lambda: self.load().T)

    def rows(self, indices: NDArray[np.int64]) -> "Weight":
        """The given rows, in that order."""
        return Weight(self.name, (len(indices), *self.shape[1:]), lambda: self.load()[indices])


def stacked(weights: Iterable[Weight], name: str) -> Weight:
    """Weights on top of each other along axis 0."""
    parts = list(weights)
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Weight(name, shape, lambda: np.concatenate([part.load() for part in parts]))


def scaled(
    weight: Weight, rows: Callable[[], Array] | None = None, columns: Callable[[], Array] | None = None
) -> Weight:
    """A weight times a factor a row (axis 0), or a factor a column (the last axis); in float32."""

    def load() -> Array:
        values = weight.load().astype(np.float32)
        if rows is not None:
            values *= rows().reshape(-1, *[1] * (values.ndim - 1))
        if columns is not None:
            values *= columns()
        return values

    return Weight(weight.name, weight.shape, load)


@dataclass
class TensorReader:
    """Hands out a checkpoint's tensors by name, checks their shapes, and remembers which were asked for."""

    checkpoint: Checkpoint
    used: set[str] = field(default_factory=set)

    def weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        """A tensor that must be there with this shape. Raises CheckpointError where it is not."""
        found = self.checkpoint.shape(name)
        if found != shape:
            raise CheckpointError(
                f"tensor {name!r} has shape {list(found)}, config.json implies {list(shape)}: "
                "config.json and weights are not of the same model"
            )
        self.used.add(name)
        return Weight(name, shape, lambda: self.checkpoint.read(name))

    def check_all_used(self, ignored: Callable[[str], bool]) -> None:
        """Raise CheckpointError where the checkpoint has tensors that no graph took."""
        left = sorted(name for name in self.checkpoint.tensors.keys() - self.used if not ignored(name))
        if left:
            raise CheckpointError(
                f"the checkpoint has {len(left)} tensors that this architecture does not use, "
                f"the first is {left[0]!r}: the model is of another kind "
                "(an adapter that was not merged?); refusing to drop weights"
            )


def converted(values: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Values in `dtype`, C-contiguous. Raises UnsupportedError where float16 would overflow to infinity."""
    if values.dtype == dtype:
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values).astype(np.float32, copy=False).astype(dtype, copy=False)
    if dtype == np.float16 and not np.isfinite(result).all():
        raise UnsupportedError(f"tensor {name!r} has values that float16 cannot hold: export with --precision fp32")
    return result
