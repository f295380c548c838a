"""What a benchmark ran on: CPU, cores, instruction sets that matter to matrix products, versions of libraries."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path
from typing import Any

from vprm_runtime.extras import installed_version
from vprm_runtime.machine import this_machine

_PACKAGES = ("vprm", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "transformers")


def machine() -> dict[str, Any]:
    """CPU model, cores, instruction sets, memory in bytes and versions; None if the system does not say."""
    found = this_machine()
    return {
        "cpu": found.cpu,
        "cores": found.cores,
        "instruction_sets": list(found.instruction_sets),
        "memory_bytes": found.memory_bytes,
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions by package; None for those that are not installed."""
    return {package: installed_version(package) for package in packages}


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, mapped files included.

    From the kernel's high-water mark of this program's own memory if there is one: what getrusage gives goes back
    to the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
