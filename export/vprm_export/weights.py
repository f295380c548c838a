"""Weights on their way from a checkpoint to a graph: checked when the graph is built, read only when it is written."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vprm_export.checkpoint import Checkpoint
from vprm_runtime.errors import CheckpointError, UnsupportedError

Array = NDArray[Any]
BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)

# A transposition goes through strips of the result that fit a core's cache, filled a few rows at a time.
_STRIP_ROWS, _STRIP_COLUMNS, _ROWS_AT_A_TIME = 128, 4096, 8
_TRANSPOSED_BYTES = 1 << 24
_CHECKED_BYTES = 1 << 22


@dataclass(frozen=True)
class Weight:
    """A tensor of a graph: its shape, and how to get its values (any floating dtype) when they are needed.

    `load` gives all of them; `row_blocks`, if a weight has it, some rows (axis 0) at a time, in order.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Array]
    row_blocks: Callable[[], Iterator[Array]] | None = None

    def blocks(self) -> Iterator[Array]:
        """The values in order, in as little memory at a time as the weight allows."""
        return iter([self.load()]) if self.row_blocks is None else self.row_blocks()

    def transposed(self) -> "Weight":
        """[out, in] of a checkpoint's Linear as the [in, out] of a matrix product."""

        def blocks() -> Iterator[Array]:
            return _transposed(list(self.blocks()))

        return Weight(self.name, self.shape[::-1], lambda: np.concatenate(list(blocks())), blocks)

    def rows(self, indices: NDArray[np.int64]) -> "Weight":
        """The given rows, in that order."""
        return Weight(self.name, (len(indices), *self.shape[1:]), lambda: self.load()[indices])


def stacked(weights: Iterable[Weight], name: str) -> Weight:
    """Weights on top of each other along axis 0."""
    parts = list(weights)
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Weight(
        name,
        shape,
        lambda: np.concatenate([part.load() for part in parts]),
        lambda: chain.from_iterable(part.blocks() for part in parts),
    )


def scaled(
    weight: Weight, rows: Callable[[], Array] | None = None, columns: Callable[[], Array] | None = None
) -> Weight:
    """A weight times a factor a row (axis 0), or a factor a column (the last axis); in float32."""

    def blocks() -> Iterator[Array]:
        row_factors = None if rows is None else rows()
        column_factors = None if columns is None else columns()
        start = 0
        for block in weight.blocks():
            values = block.astype(np.float32)
            if row_factors is not None:
                values *= row_factors[start : start + len(values)].reshape(-1, *[1] * (values.ndim - 1))
            if column_factors is not None:
                values *= column_factors
            start += len(values)
            yield values

    return Weight(weight.name, weight.shape, lambda: np.concatenate(list(blocks())), blocks)


def _transposed(parts: Sequence[Array]) -> Iterator[Array]:
    """Rows of the [columns, rows] from parts of a tensor [rows, columns], some at a time."""
    rows, columns = sum(map(len, parts)), parts[0].shape[1]
    dtype = reduce(np.promote_types, {part.dtype for part in parts})
    step = max(1, _TRANSPOSED_BYTES // (rows * dtype.itemsize))
    for left in range(0, columns, step):
        block = np.empty((min(step, columns - left), rows), dtype)
        start = 0
        for part in parts:
            transpose_into(block[:, start : start + len(part)], part[:, left : left + step].astype(dtype, copy=False))
            start += len(part)
        yield block


def transpose_into(target: Array, source: Array) -> None:
    """Write a tensor [rows, columns] to `target` [columns, rows] of the same type.

    NumPy's own assignment of a transposed tensor takes 7 times as long at the widths of an 8 B model, where whole
    columns share few lines of the cache.
    """
    unit = f"u{source.dtype.itemsize}"  # NumPy copies integers faster than types it does not know
    source, target = source.view(unit), target.view(unit)
    strip = np.empty((min(_STRIP_COLUMNS, source.shape[1]), _STRIP_ROWS), unit)
    for top in range(0, source.shape[0], _STRIP_ROWS):
        for left in range(0, source.shape[1], _STRIP_COLUMNS):
            part = source[top : top + _STRIP_ROWS, left : left + _STRIP_COLUMNS]
            turned = strip[: part.shape[1], : part.shape[0]]
            for row in range(0, len(part), _ROWS_AT_A_TIME):
                turned[:, row : row + _ROWS_AT_A_TIME] = part[row : row + _ROWS_AT_A_TIME].T
            target[left : left + part.shape[1], top : top + len(part)] = turned


@dataclass
class TensorReader:
    """Hands out a checkpoint's tensors by name, checks their shapes, and remembers which were asked for."""

    checkpoint: Checkpoint
    used: set[str] = field(default_factory=set)
    allow_nonfinite: bool = False  # else values that are no numbers are refused when they are read

    def weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        """A tensor that must be there with this shape. Raises CheckpointError if it is not."""
        found = self.checkpoint.shape(name)
        if found != shape:
            raise CheckpointError(
                f"tensor {name!r} has shape {list(found)}, config.json implies {list(shape)}: "
                "config.json and weights are not of the same model"
            )
        self.used.add(name)
        return Weight(
            name,
            shape,
            lambda: self._checked(self.checkpoint.read(name), name),
            lambda: (self._checked(block, name) for block in self.checkpoint.read_blocks(name)),
        )

    def _checked(self, values: Array, name: str) -> Array:
        """The values. Raises CheckpointError if one is NaN or infinite: every score would be NaN."""
        if not self.allow_nonfinite and not _all_finite(values):
            raise CheckpointError(
                f"tensor {name!r} has values that are NaN or infinite: the checkpoint is damaged or its training "
                "diverged. Copy it again, or export it all the same with --allow-nonfinite"
            )
        return values

    def check_all_used(self, ignored: Callable[[str], bool]) -> None:
        """Raise CheckpointError if the checkpoint has tensors that no graph took."""
        left = sorted(name for name in self.checkpoint.tensors.keys() - self.used if not ignored(name))
        if left:
            raise CheckpointError(
                f"the checkpoint has {len(left)} tensors that this architecture does not use, "
                f"the first is {left[0]!r}: the model is of another kind "
                "(an adapter that was not merged?); refusing to drop weights"
            )


_EXPONENTS = {np.dtype(np.float16): 0x7C00, np.dtype(np.float32): 0x7F800000, BFLOAT16: 0x7F80}


def _all_finite(values: Array) -> bool:
    """Whether no value is NaN or infinite: those have all bits of the exponent set. Some rows at a time."""
    mask = _EXPONENTS[values.dtype]
    bits = np.atleast_1d(values.view(f"u{values.dtype.itemsize}"))
    step = max(1, _CHECKED_BYTES * len(bits) // max(1, bits.nbytes))
    pieces = (bits[start : start + step] for start in range(0, len(bits), step))
    return all(bool(((piece & piece.dtype.type(mask)) != mask).all()) for piece in pieces)


def converted(values: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Values in `dtype`, C-contiguous. Raises UnsupportedError if float16 would overflow to infinity."""
    contiguous = np.ascontiguousarray(values)
    if values.dtype == dtype:
        return contiguous
    if values.dtype == BFLOAT16 and dtype == np.float16:
        result: Array = _half_from_bfloat16().take(contiguous.view(np.uint16)).view(np.float16)
    else:
        with np.errstate(over="ignore"):
            result = contiguous.astype(np.float32, copy=False).astype(dtype, copy=False)
    if dtype == np.float16 and (result.view(np.uint16) & _HALF_MAGNITUDE).max(initial=0) >= _HALF_INFINITY:
        raise UnsupportedError(f"tensor {name!r} has values that float16 cannot hold: export with --precision fp32")
    return result


_HALF_MAGNITUDE = np.uint16(0x7FFF)  # all bits but the sign; from _HALF_INFINITY on: infinity and NaN
_HALF_INFINITY = 0x7C00


@cache
def _half_from_bfloat16() -> NDArray[np.uint16]:
    """float16 bits by bfloat16 bits [65536]: looked up in half the time of a conversion by way of float32."""
    every = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return every.astype(np.float16).view(np.uint16)
