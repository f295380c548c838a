"""External data of a graph: laid out while the graph is built, streamed tensor by tensor, hashed on the way."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vprm_export.weights import Weight, converted
from vprm_runtime.bundle.manifest import FileInfo
from vprm_runtime.errors import BundleError

ALIGNMENT_BYTES = 4096  # a page, so that readers can map each tensor
SMALL_ALIGNMENT_BYTES = 64  # a cache line, for tensors below a page: scales and norms are many
_PIECE_BYTES = 1 << 22
_PIECES_IN_FLIGHT = 4

Progress = Callable[[int], None]  # called with the number of bytes just written


@dataclass(frozen=True)
class _Placed:
    weight: Weight
    stored: Callable[[NDArray[Any]], NDArray[Any]]  # values as they are stored, from some of the weight's
    offset_bytes: int
    size_bytes: int

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """The bytes to store, a few megabytes at a time."""
        for block in self.weight.blocks():
            rows = np.atleast_1d(block)
            step = max(1, _PIECE_BYTES * len(rows) // max(1, rows.nbytes))
            for start in range(0, len(rows), step):
                yield self.stored(rows[start : start + step]).reshape(-1).view(np.uint8)


class _HashedFile:
    """Bytes go to a file and into a hash, each in a thread of its own, a few pieces after the caller."""

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self._file = file
        self._digest = hashlib.sha256()
        self._threads = (ThreadPoolExecutor(1), ThreadPoolExecutor(1))
        self._pending: deque[tuple[Future[Any], Future[Any]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)

    def put(self, data: memoryview | bytes) -> None:
        """Queue bytes; raises what writing earlier ones raised."""
        writer, hasher = self._threads
        self._pending.append((writer.submit(self._file.write, data), hasher.submit(self._digest.update, data)))
        self.position += len(data)
        self._wait(_PIECES_IN_FLIGHT)

    def finish(self) -> FileInfo:
        """Size and hash, once all bytes are written."""
        self._wait(0)
        return FileInfo(self.position, self._digest.hexdigest())

    def _wait(self, at_most: int) -> None:
        while len(self._pending) > at_most:
            for future in self._pending.popleft():
                future.result()


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
        return self._place(weight, ir.DataType.from_numpy(dtype), lambda values: converted(values, dtype, weight.name))

    def add_stored(self, weight: Weight, dtype: ir.DataType) -> ir.Value:
        """As `add`, for a weight whose values come as they are stored: quantised codes, packed if below a byte."""
        return self._place(weight, dtype, np.ascontiguousarray)

    def _place(self, weight: Weight, dtype: ir.DataType, stored: Callable[[NDArray[Any]], NDArray[Any]]) -> ir.Value:
        size = -(-int(np.prod(weight.shape, dtype=np.int64)) * dtype.bitwidth // 8)
        alignment = ALIGNMENT_BYTES if size >= ALIGNMENT_BYTES else SMALL_ALIGNMENT_BYTES
        offset = -(-self._end_bytes // alignment) * alignment
        self._placed.append(_Placed(weight, stored, offset, size))
        self._end_bytes = offset + size
        shape = ir.Shape(weight.shape)
        tensor = ir.ExternalTensor(self.file_name, offset, size, dtype, shape=shape, name=weight.name)
        return ir.Value(name=weight.name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)

    def write(self, directory: Path, progress: Progress) -> FileInfo:
        """Write all weights, a few megabytes at a time; the memory is what the largest weight's blocks need."""
        with (directory / self.file_name).open("wb") as file, _HashedFile(file) as target:
            for placed in self._placed:
                target.put(bytes(placed.offset_bytes - target.position))
                end = placed.offset_bytes + placed.size_bytes
                for piece in placed.pieces():
                    _check_size(placed, target.position + len(piece) <= end)
                    target.put(piece.data)
                    progress(len(piece))
                _check_size(placed, target.position == end)
            return target.finish()


def _check_size(placed: _Placed, fits: bool) -> None:
    if not fits:
        raise BundleError(
            f"tensor {placed.weight.name!r} has more or fewer bytes than the {placed.size_bytes} that were laid out: "
            "the checkpoint changed while it was exported; export it again"
        )
