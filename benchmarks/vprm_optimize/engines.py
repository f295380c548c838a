"""Which library can compile engines for a GPU from here: ahead of time, or on the GPU itself."""

import importlib.util

from vprm_optimize.targets import Target

Library = str


def builder_for(target: Target) -> tuple[Library | None, str]:
    """The library to build with, or None and why."""
    capability = target.capability or 0
    ahead, on_device = (importlib.util.find_spec(name) is not None for name in ("tensorrt_rtx", "tensorrt"))
    if on_device and target.runs_here:
        return "tensorrt", ""
    if ahead:
        from vprm_compile.callbacks import supported_capabilities
        from vprm_runtime.engines.cuda.tensorrt.graph import import_tensorrt

        supported = supported_capabilities(import_tensorrt("tensorrt-rtx"))
        if capability in supported:
            return "tensorrt-rtx", ""
        known = ", ".join(map(str, supported))
        return None, (
            f"TensorRT-RTX builds ahead of time for sm {known}, not for {capability}: on the GPU's machine run  "
            "vprm build BUNDLE --engine tensorrt"
        )
    wanted = "tensorrt" if target.runs_here else "tensorrt-rtx"
    return None, f"no builder is installed: pip install 'vprm[{wanted}]', then  vprm build BUNDLE --engine {wanted}"
