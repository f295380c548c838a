"""What there is: the device, package versions, engines of this package that can take part, folders with room."""

from __future__ import annotations

import gc
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from vprm_benchmarks.speed.roofline import synchronize
from vprm_runtime.engines.cuda.device import is_device_present
from vprm_runtime.engines.cuda.onnxruntime import is_cuda_installed
from vprm_runtime.engines.cuda.tensorrt.graph import is_installed
from vprm_runtime.errors import EngineError
from vprm_runtime.machine import available_memory_bytes

EngineKind = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
PACKAGES = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-bindings",
    "numpy",
)
_SHARED_MEMORY = Path("/dev/shm")
_KEEP_FREE_BYTES = 24_000_000_000  # of main memory, beside files that live in it


def engine_kinds(device: str) -> dict[EngineKind, str | None]:
    """This package's engines, and why one cannot take part (None: it can)."""
    if device == "cpu":
        gone = "there is no CUDA device"
        return {"cpu": None, "cuda": gone, "tensorrt": gone, "tensorrt-rtx": gone}
    driver = None if is_device_present() else "cuda-bindings are not installed, or find no device"
    return {
        "cuda": None if is_cuda_installed() else "onnxruntime-gpu is not installed",
        "tensorrt": driver if is_installed("tensorrt") else "tensorrt is not installed",
        "tensorrt-rtx": driver if is_installed("tensorrt-rtx") else "tensorrt-rtx is not installed",
    }


def device_facts() -> dict[str, Any]:
    """The device's name and what its driver says of it."""
    if not torch.cuda.is_available():
        return {"name": "CPU", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def used_bytes() -> int:
    """Device memory in use, of all processes, without what PyTorch only keeps for later."""
    if not torch.cuda.is_available():
        return 0
    gc.collect()
    synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


def check_device_memory(needed_bytes: int) -> None:
    """Raise EngineError, with the figures, if a CUDA device has less than this free. Without a device: nothing."""
    if not torch.cuda.is_available():
        return
    free, _ = torch.cuda.mem_get_info()
    if free < needed_bytes:
        raise EngineError(
            f"the model needs at least {needed_bytes / 1e9:,.1f} GB on the device, {free / 1e9:,.1f} GB are free: use "
            "--model 8b-slice or tiny, or end what else runs there"
        )


def roomy_folder(needed_bytes: int) -> Path:
    """Where to put this much: main memory if it has plenty, else the temporary folder.

    Raises EngineError, with the figures, if neither has enough.
    """
    places = [Path(tempfile.gettempdir())]
    if _SHARED_MEMORY.is_dir() and needed_bytes + _KEEP_FREE_BYTES < (available_memory_bytes() or 0):
        places.insert(0, _SHARED_MEMORY)
    free = {place: shutil.disk_usage(place).free for place in places}
    for place in places:
        if free[place] > needed_bytes:
            return place
    described = ", ".join(f"{place}: {size / 1e9:.1f} GB" for place, size in free.items())
    raise EngineError(
        f"weights and bundles need {needed_bytes / 1e9:,.1f} GB, free are {described}: name another folder with --work"
    )
