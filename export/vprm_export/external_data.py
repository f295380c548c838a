"""External data of a graph: laid out while the graph is built, streamed tensor by tensor, hashed on the way."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from vprm_export.weights import Weight, converted
from vprm_runtime.manifest import FileInfo

ALIGNMENT_BYTES = 4096  # a page, so that readers can map each tensor
_WRITE_CHUNK_BYTES = 1 << 24

Progress = Callable[[int], None]  # called with the number of bytes just written


@dataclass(frozen=True)
class _Placed:
    weight: Weight
    dtype: np.dtype[Any]
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
        offset = -(-self._end_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        size = int(np.prod(weight.shape, dtype=np.int64)) * dtype.itemsize
        self._placed.append(_Placed(weight, dtype, offset, size))
        self._end_bytes = offset + size
        ir_dtype = ir.DataType.from_numpy(dtype)
        shape = ir.Shape(weight.shape)
        tensor = ir.ExternalTensor(self.file_name, offset, size, ir_dtype, shape=shape, name=weight.name)
        return ir.Value(name=weight.name, shape=shape, type=ir.TensorType(ir_dtype), const_value=tensor)

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
                values = converted(placed.weight.load(), placed.dtype, placed.weight.name)
                put(values.reshape(-1).view(np.uint8).data)
                position = placed.offset_bytes + placed.size_bytes
                progress(placed.size_bytes)
        return FileInfo(position, digest.hexdigest())
