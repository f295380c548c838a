"""What `DeviceEngine` needs of a device: memory, copies, and compiled graphs that run on addresses.

`CudaDevice` is the real one; tests have one that runs the same graphs in ONNX Runtime on host memory. Addresses are
plain integers. All work is queued in order on one stream; only `synchronize` and `copy_to_host` wait for it.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.engines.cuda.profiles import Profile, Shape

ALIGNMENT_BYTES = 256  # TensorRT's requirement on every tensor address (IExecutionContext::setTensorAddress)


@dataclass(frozen=True)
class DeviceFacts:
    """Name, compute capability (89 for 8.9) and total memory of a device."""

    name: str
    compute_capability: int
    total_bytes: int


@dataclass(frozen=True)
class Binding:
    """One tensor of a run: where it is and its shape."""

    address: int
    shape: Shape


class Device(Protocol):
    """Memory and copies on one device, in order on one stream."""

    @property
    def facts(self) -> DeviceFacts:
        """What the device is."""
        ...

    def make_current(self) -> None:
        """Let this thread's calls go to this device."""
        ...

    def free_bytes(self) -> int:
        """Memory that can still be allocated."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Address of new memory, aligned to ALIGNMENT_BYTES. Raises EngineError if there is not enough."""
        ...

    def release(self, address: int) -> None:
        """Give memory back once all queued work is done."""
        ...

    def trim(self) -> None:
        """Give released memory back to the driver, after all queued work."""
        ...

    def copy_to_device(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of a C-contiguous array; the array may be changed afterwards."""
        ...

    def copy_to_host(self, array: NDArray[Any], address: int) -> None:
        """Fill a C-contiguous array, after all queued work."""
        ...

    def copy_on_device(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy between two places that do not overlap."""
        ...

    def synchronize(self) -> None:
        """Wait for all queued work. Raises EngineError if some of it failed."""
        ...


class DeviceGraph(Protocol):
    """A compiled graph on a device."""

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Shapes that it takes."""
        ...

    def run(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        """Queue a run with the given profile on all inputs and outputs by name.

        Every address must be aligned, also those of empty tensors. Raises EngineError if a shape lies outside of
        the profile or the library refuses the run.
        """
        ...


class Buffer:
    """Device memory that is given back when nothing refers to it any more."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = device.allocate(max(size_bytes, ALIGNMENT_BYTES))
        self._finalizer = weakref.finalize(self, device.release, self.address)

    def release(self) -> None:
        """Give the memory back now."""
        self._finalizer()


class DeviceRows:
    """Image rows [N, hidden] on `device`: slices share the memory, and NumPy reads a copy.

    Image embeddings go from the vision graph to the LLM graph as such rows and never cross to the host.
    """

    def __init__(self, device: Device, buffer: Buffer, address: int, shape: tuple[int, int], dtype: Any) -> None:
        self.device = device
        self._buffer = buffer  # keeps the memory alive
        self.address = address
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> "DeviceRows":
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows on a device are taken in steps of 1, not {step}: copy them with numpy.asarray")
        address = self.address + start * self.row_bytes
        return DeviceRows(self.device, self._buffer, address, (max(0, stop - start), self.shape[1]), self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.shape[1] * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("rows on a device cannot be read without a copy")
        array = np.empty(self.shape, self.dtype)
        if array.size:
            self.device.copy_to_host(array, self.address)
        return array if dtype is None else array.astype(dtype, copy=False)
