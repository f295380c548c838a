"""Kernels that TensorRT-RTX compiled on this device, kept across processes."""

import contextlib
from pathlib import Path
from typing import Any

from vprm_runtime.files import write_whole


class KernelCache:
    """The kernels that TensorRT-RTX compiled on this device, kept in a file between processes."""

    def __init__(self, cache: Any, path: Path | None) -> None:
        self.cache = cache
        self._path = path
        if path is not None and path.is_file():
            cache.deserialize(path.read_bytes())  # says False and stays empty if version or device differ

    def save(self) -> None:
        """Write the file; if the bundle is read-only, kernels are compiled again next time."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            write_whole(self._path, bytes(self.cache.serialize()))
