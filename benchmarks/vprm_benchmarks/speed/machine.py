"""What a benchmark ran on: CPU, cores, instruction sets that matter to matrix products, versions of libraries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

# As the kernel names them in /proc/cpuinfo, on x86 ("flags") and Arm ("Features").
_INSTRUCTION_SETS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
_PACKAGES = ("vprm", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "transformers")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """CPU model, cores, instruction sets, memory in bytes and versions; None where the system does not say."""
    lines = _cpuinfo()
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    return {
        "cpu": lines.get("model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
        "memory_bytes": _memory_bytes(),
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions by package; None for those that are not installed."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty on systems without."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
