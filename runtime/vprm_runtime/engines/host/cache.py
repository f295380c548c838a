"""Cached keys and values in host memory, for every library that runs graphs on NumPy arrays."""

from typing import Any

import numpy as np

from vprm_runtime.engines.base import CachedRows, Int64Array, grown_capacity, kept_in_place


class HostCache(CachedRows):
    """Cached rows [layers, 2, capacity, kv_width]; index 1 of axis 1 is key, value."""

    def __init__(self, layers: int, kv_width: int, dtype: np.dtype[Any], capacity_tokens: int) -> None:
        super().__init__()
        self.rows = np.empty((layers, 2, capacity_tokens, kv_width), dtype)

    @property
    def capacity_tokens(self) -> int:
        """Number of rows that fit without a copy."""
        return int(self.rows.shape[2])

    @property
    def nbytes(self) -> int:
        """Memory of the array: the capacity, not only the rows in use."""
        return self.rows.nbytes

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these, which are ascending; row rows[i] becomes row i."""
        first = kept_in_place(rows, self._length)
        for part in self.rows.reshape(-1, *self.rows.shape[2:]):  # a layer's keys or values at a time
            part[first : len(rows)] = part[rows[first:]]
        self._length = len(rows)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more rows; copies if the capacity is too small."""
        self.check_usable()
        needed = self._length + tokens
        if needed > self.capacity_tokens:
            self._resize(grown_capacity(needed, self.capacity_tokens))

    def trim(self) -> None:
        """Give memory beyond the cached rows back."""
        if self.capacity_tokens > self._length:
            self._resize(self._length)

    def release(self) -> None:
        """Give all memory back."""
        super().release()
        self._resize(0)

    def _resize(self, capacity_tokens: int) -> None:
        layers, parts, _, width = self.rows.shape
        resized = np.empty((layers, parts, capacity_tokens, width), self.rows.dtype)
        resized[:, :, : self._length] = self.rows[:, :, : self._length]
        self.rows = resized
