"""Which library can compile engines for a GPU from here: ahead of time, or on the GPU itself."""

import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path

from vprm_optimize.recipes import Goal
from vprm_optimize.targets import Target
from vprm_runtime.bundle.names import path_text
from vprm_runtime.engines.cuda.tensorrt.engine_file import Library
from vprm_runtime.errors import VprmError

AHEAD_OF_TIME = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT-RTX 1.7 builds for without a GPU, to say so where it is not installed."""


@dataclass(frozen=True)
class Builder:
    """How engines for a target are made. `library` is what builds them here; None: `why_not` says why nothing does.

    `by_hand` is the library to use then, and `needs` what has to be done before.
    """

    by_hand: Library
    target: Target
    goal: Goal
    library: Library | None = None
    why_not: str = ""
    needs: str = ""

    @property
    def profile(self) -> str:
        """The profile of `vprm build`."""
        return "throughput" if self.goal == "throughput" else "latency"

    def command(self, bundle: Path) -> str:
        """The command that builds an engine into a bundle."""
        words = ["vprm build", shlex.quote(path_text(bundle)), "--engine", self.library or self.by_hand]
        if (self.library or self.by_hand) == "tensorrt-rtx" and not self.target.runs_here:
            words += ["--sm", str(self.target.capability)]
        return " ".join([*words, *(["--profile", self.profile] if self.profile != "latency" else [])])

    def advice(self, bundle: Path) -> str:
        """Why nothing is built here, and what to do."""
        return f"{self.why_not}: {self.needs}  {self.command(bundle)}"


def builder_for(target: Target, goal: Goal) -> Builder:
    """How engines for a GPU are made from here."""
    capability = target.capability or 0
    ahead, on_device = (importlib.util.find_spec(name) is not None for name in ("tensorrt_rtx", "tensorrt"))
    if on_device and target.runs_here:
        return Builder("tensorrt", target, goal, library="tensorrt")
    if target.runs_here and not ahead:
        why = "neither TensorRT nor TensorRT-RTX is installed"
        return Builder("tensorrt", target, goal, None, why, "pip install 'vprm[export,tensorrt]'  and run")
    there = f"on the machine with the {target.title}, after  pip install 'vprm[export,tensorrt]' , run"
    if ahead:
        from vprm_compile.callbacks import supported_capabilities
        from vprm_runtime.engines.cuda.tensorrt.graph import import_tensorrt

        try:
            known = supported_capabilities(import_tensorrt("tensorrt-rtx"))
        except VprmError as error:
            command = "pip install --force-reinstall 'vprm[tensorrt-rtx]'  and run"
            return Builder("tensorrt-rtx", target, goal, None, f"TensorRT-RTX cannot be loaded ({error})", command)
        if capability in known or target.runs_here:  # on the GPU the library itself may try
            return Builder("tensorrt-rtx", target, goal, library="tensorrt-rtx")
        listed = ", ".join(map(_shown, known))
        why = f"TensorRT-RTX builds ahead of time for compute capabilities {listed}, not for {_shown(capability)}"
        return Builder("tensorrt", target, goal, None, why, there)
    if capability in AHEAD_OF_TIME:
        why = "TensorRT-RTX, which builds engines without the GPU, is not installed"
        return Builder("tensorrt-rtx", target, goal, None, why, "pip install 'vprm[tensorrt-rtx]'  and run")
    return Builder("tensorrt", target, goal, None, "TensorRT builds on the GPU itself", there)


def _shown(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"
