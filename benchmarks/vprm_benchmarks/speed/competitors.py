"""Who takes part in `vprm bench best-of-n`: PyTorch in three ways, and this package's bundles on its CPU engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vprm_benchmarks.reference.scorer import Method, ReferenceImages, ReferenceScorer
from vprm_benchmarks.speed.models import Model
from vprm_benchmarks.speed.workload import Workload
from vprm_runtime import ScoreOptions, StepScorer, native
from vprm_runtime.engines import Engine
from vprm_runtime.engines.base import Block, FloatArray, KVCache
from vprm_runtime.manifest import Precision, Target

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
        """Step scores of the request's candidates, one behind the other; of the first only, where `calls` > 1."""
        ...


class _TimedReference(ReferenceScorer):
    """The reference with a clock around the vision encoder."""

    vision_s = 0.0

    def encode_images(self, images: Sequence[Path | Image.Image], max_tiles: int | None = None) -> ReferenceImages:
        started = time.perf_counter()
        encoded = super().encode_images(images, max_tiles)
        self.vision_s += time.perf_counter() - started
        return encoded


class _TimedEngine:
    """An engine with a clock around the vision encoder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.vision_s = 0.0

    @property
    def description(self) -> str:
        return self._engine.description

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> FloatArray:
        started = time.perf_counter()
        embeds = self._engine.encode_tiles(tiles)
        self.vision_s += time.perf_counter() - started
        return embeds

    def new_cache(self, capacity_tokens: int) -> KVCache:
        return self._engine.new_cache(capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        return self._engine.forward(block, cache)


class TorchCompetitor:
    """transformers' model with SDPA. "one-pass" and "per-step" run the vision encoder for every candidate or step, as
    the published code does; "per-step" is timed on one candidate."""

    def __init__(self, scorer: _TimedReference, method: Method, candidates: int) -> None:
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
        self._engine = _TimedEngine(scorer.engine)
        scorer.engine = self._engine
        self._scorer = scorer

    @property
    def description(self) -> str:
        return self._engine.description

    @property
    def vision_s(self) -> float:
        return self._engine.vision_s

    def scores(self, work: Workload) -> Scores:
        options = ScoreOptions(max_tiles=work.max_tiles)
        found = self._scorer.score(work.image, work.question, work.candidates, options)
        return np.array([step.score for one in found.candidates for step in one.steps], np.float64)


_METHODS: dict[str, Method] = {"per_step": "per-step", "one_pass": "one-pass", "prefix": "prefix-reuse"}
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class _BundleKind:
    """A bundle and where it runs. `vision` None: as for the LLM, never quantised."""

    precision: Precision
    vision: Precision | None = None
    target: Target = "cpu"
    device: str = "cpu"


_BUNDLES = {
    "vprm_fp32": _BundleKind("fp32"),
    "vprm_int8": _BundleKind("int8", "int8", "cpu-native" if native.level() else "cpu"),
    "vprm_int8_standard": _BundleKind("int8", "int8"),  # standard operators only
    "vprm_int8_vision_fp32": _BundleKind("int8", None),
}
NAMES = (*(f"torch_{method}_{dtype}" for method in _METHODS for dtype in _DTYPES), *_BUNDLES)
DEFAULT_NAMES = (
    "torch_per_step_bf16", "torch_one_pass_bf16", "torch_prefix_bf16", "torch_prefix_fp32", "vprm_fp32", "vprm_int8",
)  # fmt: skip


def open_competitors(
    names: Sequence[str], model: Model, candidates: int, threads: int, say: Callable[[str], None]
) -> dict[str, Competitor]:
    """Open competitors by name, for requests of `candidates`; PyTorch ones of a type share their weights."""
    torch.set_num_threads(threads)
    references: dict[str, _TimedReference] = {}
    found: dict[str, Competitor] = {}
    for name in names:
        say(f"opening {name}")
        if name in _BUNDLES:
            kind = _BUNDLES[name]
            bundle = model.bundle(kind.precision, kind.vision, kind.target)
            scorer = StepScorer.open(bundle, kind.device, threads=threads)
            found[name] = BundleCompetitor(scorer)
            continue
        method, _, dtype = name.removeprefix("torch_").rpartition("_")
        if dtype not in references:
            loaded: Any = _TimedReference.load(model.checkpoint, dtype=_DTYPES[dtype], attention="sdpa")
            references[dtype] = loaded
        found[name] = TorchCompetitor(references[dtype], _METHODS[method], candidates)
    return found
