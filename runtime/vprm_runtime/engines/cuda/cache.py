"""Cached keys and values on a device, in one allocation; the engine writes new rows directly after the cached ones."""

import numpy as np

from vprm_runtime.engines.base import CachedRows, Int64Array, grown_capacity, kept_in_place
from vprm_runtime.engines.cuda.protocol import ALIGNMENT_BYTES, Buffer, Device

# Rows are reserved in steps of this many: memory of ended sessions then fits new ones, at the same addresses, and
# every layer's rows begin aligned whatever their width.
CAPACITY_STEP_TOKENS = 512


class DeviceCache(CachedRows):
    """Rows [layers, 2, capacity, row_bytes] on a device; index 1 of axis 1 is key, value."""

    def __init__(self, device: Device, layers: int, row_bytes: int, capacity_tokens: int) -> None:
        super().__init__()
        self._device = device
        self._layers = layers
        self._row_bytes = row_bytes
        self._capacity = rounded_capacity(capacity_tokens)
        self._buffer = Buffer(device, self.size_bytes(self._capacity))

    @property
    def capacity_tokens(self) -> int:
        """Number of rows that fit without a copy."""
        return self._capacity

    def size_bytes(self, capacity_tokens: int) -> int:
        """Memory of a cache with this capacity."""
        return self._layers * 2 * capacity_tokens * self._row_bytes

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these, which are ascending; row rows[i] becomes row i.

        What moves goes through a buffer of one layer's keys, as copies on a device may not overlap.
        """
        first = kept_in_place(rows, self._length)
        moved_bytes = (len(rows) - first) * self._row_bytes
        if moved_bytes:
            runs = np.split(rows[first:], np.flatnonzero(np.diff(rows[first:]) != 1) + 1)  # neighbours move together
            buffer = Buffer(self._device, moved_bytes)
            for part in range(self._layers * 2):
                start = self.past_address(*divmod(part, 2))
                place = buffer.address
                for run in runs:
                    size_bytes = len(run) * self._row_bytes
                    self._device.copy_on_device(place, start + int(run[0]) * self._row_bytes, size_bytes)
                    place += size_bytes
                self._device.copy_on_device(start + first * self._row_bytes, buffer.address, moved_bytes)
            buffer.release()
        self._length = len(rows)

    @property
    def nbytes(self) -> int:
        """Memory of the allocation: the capacity, not only the rows in use."""
        return self.size_bytes(self._capacity)

    def trim(self) -> None:
        """Give memory beyond the cached rows back, down to the next step of capacity."""
        if rounded_capacity(self._length) < self._capacity:
            self.resize(self._length)

    def release(self) -> None:
        """Give all memory back."""
        super().release()
        self._capacity = 0
        self._buffer.release()

    def capacity_for(self, tokens: int) -> int:
        """The capacity that makes room for `tokens` more rows: what it is, or what it has to be resized to."""
        self.check_usable()
        needed = self._length + tokens
        return self._capacity if needed <= self._capacity else rounded_capacity(grown_capacity(needed, self._capacity))

    def resize(self, capacity_tokens: int) -> None:
        """Move the rows to an allocation of this capacity, in whole steps."""
        old_buffer, old_capacity = self._buffer, self._capacity
        capacity = rounded_capacity(capacity_tokens)
        self._buffer = Buffer(self._device, self.size_bytes(capacity))
        self._capacity = capacity
        if self._length:
            for part in range(self._layers * 2):
                self._device.copy_on_device(
                    self._buffer.address + part * capacity * self._row_bytes,
                    old_buffer.address + part * old_capacity * self._row_bytes,
                    self._length * self._row_bytes,
                )
        old_buffer.release()

    def past_address(self, layer: int, part: int) -> int:
        """Where the cached rows of a layer's keys (part 0) or values (part 1) begin."""
        return self._buffer.address + (layer * 2 + part) * self._capacity * self._row_bytes

    def new_address(self, layer: int, part: int) -> int:
        """Where the next row of a layer's keys or values belongs."""
        return self.past_address(layer, part) + self._length * self._row_bytes

    @property
    def new_rows_aligned(self) -> bool:
        """Whether TensorRT can write at `new_address`; always so if a row's size is a multiple of the alignment."""
        return self._length * self._row_bytes % ALIGNMENT_BYTES == 0


def rounded_capacity(tokens: int) -> int:
    """The next multiple of CAPACITY_STEP_TOKENS."""
    return max(1, -(-tokens // CAPACITY_STEP_TOKENS)) * CAPACITY_STEP_TOKENS
