"""External data of a graph: laid out while the graph is built, streamed tensor by tensor, hashed on the way."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vprm_export.weights import Weight, converted
from vprm_runtime.errors import BundleError
from vprm_runtime.manifest import FileInfo

ALIGNMENT_BYTES = 4096  # a page, so that readers can map each tensor
SMALL_ALIGNMENT_BYTES = 64  # a cache line, for tensors below a page: scales and norms are many
_WRITE_CHUNK_BYTES = 1 << 24

Progress = Callable[[int], None]  # called with the number of bytes just written


@dataclass(frozen=True)
class _Placed:
    name: str
    load: Callable[[], NDArray[Any]]  # the values as they are stored
    offset_bytes: int
    size_bytes: int


class ExternalData:
    """One external data file in the making."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self._placed: list[_Placed] = []
        self._end_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Size of the file so far."""
        return self._end_bytes

    def add(self, weight: Weight, dtype: np.dtype[Any]) -> ir.Value:
        """Give a weight its place in the file; returns the graph's initializer, stored as `dtype`."""
        return self._place(weight, ir.DataType.from_numpy(dtype), lambda: converted(weight.load(), dtype, weight.name))

    def add_stored(self, weight: Weight, dtype: ir.DataType) -> ir.Value:
        """As `add`, for a weight whose values come as they are stored: quantised codes, packed where below a byte."""
        return self._place(weight, dtype, weight.load)

    def _place(self, weight: Weight, dtype: ir.DataType, load: Callable[[], NDArray[Any]]) -> ir.Value:
        size = -(-int(np.prod(weight.shape, dtype=np.int64)) * dtype.bitwidth // 8)
        alignment = ALIGNMENT_BYTES if size >= ALIGNMENT_BYTES else SMALL_ALIGNMENT_BYTES
        offset = -(-self._end_bytes // alignment) * alignment
        self._placed.append(_Placed(weight.name, load, offset, size))
        self._end_bytes = offset + size
        shape = ir.Shape(weight.shape)
        tensor = ir.ExternalTensor(self.file_name, offset, size, dtype, shape=shape, name=weight.name)
        return ir.Value(name=weight.name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)

    def write(self, directory: Path, progress: Progress) -> FileInfo:
        """Write all weights; memory is one tensor and its conversion."""
        digest = hashlib.sha256()
        position = 0
        with (directory / self.file_name).open("wb") as file:

            def put(data: memoryview) -> None:
                for start in range(0, len(data), _WRITE_CHUNK_BYTES):
                    chunk = data[start : start + _WRITE_CHUNK_BYTES]
                    file.write(chunk)
                    digest.update(chunk)

            for placed in self._placed:
                put(memoryview(bytes(placed.offset_bytes - position)))
                stored = placed.load().reshape(-1).view(np.uint8)
                if stored.nbytes != placed.size_bytes:
                    raise BundleError(
                        f"tensor {placed.name!r} takes {stored.nbytes} bytes, {placed.size_bytes} were laid out: "
                        "the checkpoint changed while it was exported; export it again"
                    )
                put(stored.data)
                del stored
                position = placed.offset_bytes + placed.size_bytes
                progress(placed.size_bytes)
        return FileInfo(position, digest.hexdigest())
