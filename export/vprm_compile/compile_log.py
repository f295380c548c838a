"""What the builder's log says: why a compilation failed, and sizes."""

import re
from collections.abc import Sequence


def has_no_fused_attention(errors: Sequence[str]) -> bool:
    """Whether a compilation failed because attention has no fused kernel for these types and sizes on this device."""
    text = " ".join(errors)
    return "not supported by a dedicated kernel" in text or "is_decomposable" in text


def compile_failure(graph: str, errors: Sequence[str]) -> str:
    """What to tell of a failed compilation, by the library's own messages."""
    text = " ".join(errors)
    node = re.search(r"node_\w+", text)
    where = f" at {node.group()}" if node else ""
    if re.search(r"fp8|float8", text, re.IGNORECASE):
        why = "FP8 cannot be compiled for this device: export with --precision int8 --target tensorrt"
    elif re.search(r"out of memory|bad_alloc|OOM", text, re.IGNORECASE):
        why = "there is not enough memory: build on a larger machine, or with --profile latency"
    else:
        why = "try another --profile or --precision, and report it with these messages"
    return f"TensorRT cannot compile {graph}{where}: {why}. It says: {text.strip()[:1000] or 'nothing'}"


def reported_bytes(lines: Sequence[str], label: str) -> int:
    """A size from the builder's log; 0 if it says none (TensorRT words it otherwise from version to version)."""
    found = [match.group(1) for line in lines if (match := re.match(rf"{label}: (\d+) bytes", line))]
    return int(found[-1]) if found else 0
