"""Limits of the hardware itself: products from registers by instruction set, and bytes read from memory.

Measured by loops in the native library (runtime/native/peaks.c), on all threads at once. A library's own peak product
says how good that library is; these say how good it could be.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from vprm_benchmarks.speed.stopwatch import seconds
from vprm_runtime import native

READ_BYTES = 1 << 28  # a thread's share: far beyond any cache
_PEAK_S = 0.3


def physical_tops(threads: int, seconds: float = _PEAK_S) -> dict[str, float]:
    """TOP/s (two operations a multiply-add) by instruction set and type, as avx512_int8, and the best by type, as int8.

    Empty if the native library was not built.
    """
    library = _library()
    if library is None:
        return {}
    names: list[str] = []
    while (name := library.vprm_peak_name(len(names))) is not None:
        names.append(name.decode())
    with ThreadPoolExecutor(threads) as pool:
        found = {
            name: sum(pool.map(lambda _, index=index: library.vprm_peak(index, seconds), range(threads))) / 1e12
            for index, name in enumerate(names)
        }
    for name, value in list(found.items()):
        kind = name.split("_")[1]
        found[kind] = max(found.get(kind, 0.0), value)
    return {name: value for name, value in found.items() if value}


def read_gb_per_s(threads: int, rounds: int = 5) -> float | None:
    """GB/s of reading on all threads, best of `rounds`; None if the native library was not built."""
    with memory_reader(threads) as read:
        if read is None:
            return None
        return threads * READ_BYTES / min(seconds(read) for _ in range(rounds)) / 1e9


@contextmanager
def memory_reader(threads: int) -> Iterator[Callable[[], object] | None]:
    """A call that reads READ_BYTES on each of so many threads at once; None if the native library was not built."""
    library = _library()
    if library is None:
        yield None
        return
    shares = [np.ones(READ_BYTES // 8, np.uint64) for _ in range(threads)]

    def read(share: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> int:
        return int(library.vprm_read(share.ctypes.data, share.nbytes))

    with ThreadPoolExecutor(threads) as pool:
        yield lambda: list(pool.map(read, shares))


def _library() -> ctypes.CDLL | None:
    if native.level() is None:
        return None
    library = ctypes.CDLL(str(native.library_path()))
    library.vprm_peak_name.restype = ctypes.c_char_p
    library.vprm_peak.restype, library.vprm_peak.argtypes = ctypes.c_double, [ctypes.c_int, ctypes.c_double]
    library.vprm_read.restype, library.vprm_read.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_size_t]
    return library
