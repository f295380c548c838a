"""`python -m vprm_benchmarks.speed.export_once CHECKPOINT BUNDLE PRECISION`: one export, its peak memory as JSON."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import cast

from vprm_export import ExportOptions, export_bundle
from vprm_runtime.bundle.manifest import Precision


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, mapped files included.

    From the kernel's high-water mark of this program's own memory where there is one: what getrusage gives goes back
    to the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    checkpoint, bundle, precision = sys.argv[1:]
    export_bundle(checkpoint, bundle, ExportOptions(cast(Precision, precision)))
    print(json.dumps({"peak_rss_bytes": peak_rss_bytes()}))  # noqa: T201 - the program's output
