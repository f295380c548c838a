"""Who takes part in `vprm bench best-of-n`: PyTorch in three ways, PyTorch's networks in OpenVINO, and
this package's bundles on its CPU engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vprm_benchmarks.reference.scorer import Method
from vprm_benchmarks.speed.bundles import NATIVE_INT8, BundleKind
from vprm_benchmarks.speed.clocked_engines import TimedEngine, TimedReference
from vprm_benchmarks.speed.models import Model, ModelName
from vprm_benchmarks.speed.workload import Workload
from vprm_runtime import InputError, MissingExtraError, StepScorer

Scores = NDArray[np.float64]


class Competitor(Protocol):
    """One way to score a request from its picture and texts, everything included."""

    calls: int  # calls of `scores` that make up the whole request

    @property
    def description(self) -> str:
        """What runs."""
        ...

    @property
    def vision_s(self) -> float:
        """Seconds that tiling and the vision encoder have taken so far, of all calls."""
        ...

    def scores(self, work: Workload) -> Scores:
        """Step scores of the request's candidates, one after the other; of the first only, if `calls` > 1."""
        ...


class TorchCompetitor:
    """transformers' model with SDPA. "one-pass" and "per-step" run the vision encoder for every candidate or step, as
    the published code does; "per-step" is timed on one candidate."""

    def __init__(self, scorer: TimedReference, method: Method, candidates: int) -> None:
        self._scorer = scorer
        self._method = method
        self.calls = candidates if method == "per-step" else 1

    @property
    def description(self) -> str:
        return f"PyTorch {torch.__version__}, SDPA, {self._scorer.model.dtype}, {self._method}"

    @property
    def vision_s(self) -> float:
        return self._scorer.vision_s

    def scores(self, work: Workload) -> Scores:
        candidates = work.candidates[: 1 if self._method == "per-step" else None]
        together = self._method == "prefix-reuse"
        found = []
        for group in [candidates] if together else [[steps] for steps in candidates]:
            found += self._scorer.score([work.image], work.question, group, self._method, work.max_tiles)
        return np.concatenate([one.scores for one in found]).astype(np.float64)


class BundleCompetitor:
    """This package, one bundle on one device."""

    calls = 1

    def __init__(self, scorer: StepScorer) -> None:
        self._engine = TimedEngine(scorer.engine)
        self._scorer = scorer.with_engine(self._engine)

    @property
    def description(self) -> str:
        return self._engine.description

    @property
    def vision_s(self) -> float:
        return self._engine.vision_s

    def scores(self, work: Workload) -> Scores:
        found = self._scorer.score(work.image, work.question, work.candidates, max_tiles=work.max_tiles)
        return np.array([step.score for one in found.candidates for step in one.steps], np.float64)


_METHODS: dict[str, Method] = {"per_step": "per-step", "one_pass": "one-pass", "prefix": "prefix-reuse"}
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_BUNDLES = {
    "vprm_fp32": BundleKind("fp32"),
    "vprm_int8": NATIVE_INT8,
    "vprm_int8_standard": BundleKind("int8"),  # standard operators only
    "vprm_int8_vision_int8": replace(NATIVE_INT8, vision="int8"),
    "vprm_bf16": BundleKind("fp16", device="openvino"),  # stored in half of fp32's bytes; computed in bfloat16
    "vprm_w8_bf16": BundleKind("w8", device="openvino"),
    "vprm_int8_openvino": replace(NATIVE_INT8, vision="fp16", device="openvino"),
}
_PEER = "openvino_prefix_bf16"
NAMES = (*(f"torch_{method}_{dtype}" for method in _METHODS for dtype in _DTYPES), _PEER, *_BUNDLES)
_GOAL_NAMES = (
    "torch_per_step_bf16", "torch_one_pass_bf16", "torch_prefix_bf16", "torch_prefix_fp32", "vprm_fp32", "vprm_int8",
)  # fmt: skip
DEFAULT_NAMES: dict[ModelName, tuple[str, ...]] = {
    "demo": (*_GOAL_NAMES, _PEER, "vprm_bf16", "vprm_int8_openvino"),
    "8b-slice": (*_GOAL_NAMES, "vprm_int8_vision_int8"),  # about 19 GB at 4 layers
}


def choose(
    asked: Sequence[str] | None, default: Sequence[str], known: Sequence[str], needs_openvino: Callable[[str], bool]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Who takes part, and why others of the default do not.

    Raises InputError on an unknown name, and MissingExtraError if one that was asked for cannot take part.
    """
    names = tuple(asked or default)
    if unknown := set(names) - set(known):
        raise InputError(f"unknown competitor {min(unknown)!r}: there are {', '.join(known)}")
    if importlib.util.find_spec("openvino") is not None:
        return names, {}
    lost = [name for name in names if needs_openvino(name)]
    if asked and lost:
        raise MissingExtraError(f"competitor {lost[0]}", "openvino")
    reason = str(MissingExtraError("this competitor", "openvino"))
    return tuple(name for name in names if name not in lost), dict.fromkeys(lost, reason)


def choose_competitors(asked: Sequence[str] | None, model: ModelName) -> tuple[tuple[str, ...], dict[str, str]]:
    """`choose` for `vprm bench best-of-n`."""
    return choose(asked, DEFAULT_NAMES[model], NAMES, _needs_openvino)


def _needs_openvino(name: str) -> bool:
    return name == _PEER or (name in _BUNDLES and _BUNDLES[name].device == "openvino")


def open_competitors(
    names: Sequence[str], model: Model, candidates: int, threads: int, say: Callable[[str], None]
) -> dict[str, Competitor]:
    """Open competitors by name, for requests of `candidates`; PyTorch ones of a type share their weights."""
    torch.set_num_threads(threads)
    references: dict[str, TimedReference] = {}

    def reference(dtype: str) -> TimedReference:
        if dtype not in references:
            references[dtype] = TimedReference.load(model.checkpoint, dtype=_DTYPES[dtype], attention="sdpa")
        return references[dtype]

    found: dict[str, Competitor] = {}
    for name in names:
        say(f"opening {name}")
        if name in _BUNDLES:
            kind = _BUNDLES[name]
            scorer = StepScorer.open(model.bundle(kind), kind.device, threads=threads)
            found[name] = BundleCompetitor(scorer)
        elif name == _PEER:
            from vprm_benchmarks.speed.openvino_peer import OpenVinoReference

            peer = OpenVinoReference.of(reference("bf16"), model.checkpoint, threads)
            found[name] = TorchCompetitor(peer, "prefix-reuse", candidates)
        else:
            method, _, dtype = name.removeprefix("torch_").rpartition("_")
            found[name] = TorchCompetitor(reference(dtype), _METHODS[method], candidates)
    return found
