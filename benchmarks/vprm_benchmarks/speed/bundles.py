"""Which bundles benchmarks run, and where."""

from __future__ import annotations

from dataclasses import dataclass

from vprm_runtime import native
from vprm_runtime.bundle.manifest import Precision, Target


@dataclass(frozen=True)
class BundleKind:
    """A bundle and the device it runs on. `vision` None: the LLM's floating type."""

    precision: Precision
    vision: Precision | None = None
    target: Target = "cpu"
    device: str = "cpu"


NATIVE_INT8 = BundleKind("int8", target="cpu-native" if native.level() else "cpu")
"""int8 with attention by the native operator, if this machine runs it."""
