"""`python -m vprm_benchmarks.speed.export_once CHECKPOINT BUNDLE PRECISION`: one export, its peak memory as JSON."""

from __future__ import annotations

import json
import sys
from typing import cast

from vprm_benchmarks.speed.machine import peak_rss_bytes
from vprm_export import ExportOptions, export_bundle
from vprm_runtime.bundle.manifest import Precision

if __name__ == "__main__":
    checkpoint, bundle, precision = sys.argv[1:]
    export_bundle(checkpoint, bundle, ExportOptions(cast(Precision, precision)))
    print(json.dumps({"peak_rss_bytes": peak_rss_bytes()}))  # noqa: T201 - the program's output
