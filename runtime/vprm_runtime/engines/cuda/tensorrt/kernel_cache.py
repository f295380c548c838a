"""Kernels that TensorRT-RTX compiled on this device, kept across processes."""

import contextlib
from pathlib import Path
from typing import Any


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
        temporary = self._path.with_suffix(".part")
        try:
            temporary.write_bytes(bytes(self.cache.serialize()))
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
