"""Who takes part: PyTorch in three ways, and this package's engines, behind one small face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vprm_benchmarks.gpu.environment import EngineKind
from vprm_benchmarks.reference.scorer import Method, ReferenceScorer
from vprm_benchmarks.speed.workload import Workload
from vprm_runtime import Bundle, StepScorer
from vprm_runtime.engines.base import no_image_rows
from vprm_runtime.execution.blocks import causal_block


class Contender(Protocol):
    """One way to score. Every call finishes its work on the device or is followed by a synchronisation."""

    name: str
    pruned: bool  # whether the last layer runs for scored tokens only

    @property
    def description(self) -> str:
        """What runs where, for people."""
        ...

    def scores(self, work: Workload) -> NDArray[np.float64]:
        """Step scores of all candidates, one behind the other."""
        ...

    def vision(self, work: Workload) -> None:
        """Tile and encode the picture."""
        ...

    def prefill(self, tokens: int) -> Callable[[], object]:
        """A call that runs a block of `tokens` from an empty cache."""
        ...

    def tokens(self, work: Workload) -> list[int]:
        """Length of each candidate's prompt."""
        ...


@dataclass
class TorchContender:
    """PyTorch on transformers' model; `compiled` through torch.compile."""

    name: str
    scorer: ReferenceScorer
    method: Method
    pruned: bool = False

    @property
    def description(self) -> str:
        """Library, version, device, precision."""
        return f"PyTorch {torch.__version__}, {self.scorer.model.device}, {self.scorer.model.dtype}, SDPA"

    def scores(self, work: Workload) -> NDArray[np.float64]:
        found = self.scorer.score([work.image], work.question, work.candidates, self.method, work.max_tiles)
        return np.concatenate([one.scores for one in found]).astype(np.float64)

    def vision(self, work: Workload) -> None:
        self.scorer.encode_images([work.image], work.max_tiles)

    def prefill(self, tokens: int) -> Callable[[], object]:
        model = self.scorer.model.model.language_model
        ids = torch.zeros((1, tokens), dtype=torch.int64, device=self.scorer.model.device)

        def run() -> object:
            with torch.inference_mode():
                return model(input_ids=ids, use_cache=True)

        return run

    def tokens(self, work: Workload) -> list[int]:
        images = self.scorer.encode_images([work.image], work.max_tiles)
        return [len(self.scorer.token_ids(images, work.question, steps)) for steps in work.candidates]


class EngineContender:
    """This package on one engine."""

    pruned = True

    def __init__(self, name: str, bundle: Bundle, kind: EngineKind) -> None:
        self.name = name
        self.scorer = StepScorer.open(bundle, kind)

    @property
    def description(self) -> str:
        """As the engine says it."""
        return self.scorer.engine.description

    def scores(self, work: Workload) -> NDArray[np.float64]:
        found = self.scorer.score([work.image], work.question, work.candidates, max_tiles=work.max_tiles)
        return np.array([step.score for one in found.candidates for step in one.steps], np.float64)

    def vision(self, work: Workload) -> None:
        self.scorer.engine.encode_tiles(self._tiles(work))
        self.scorer.engine.synchronize()

    def prefill(self, tokens: int) -> Callable[[], object]:
        block = causal_block([5] * tokens, 0, no_image_rows(self.scorer.manifest))
        cache = self.scorer.engine.new_cache(tokens)

        def run() -> object:
            cache.truncate(0)
            logits = self.scorer.engine.forward(block, cache)
            self.scorer.engine.synchronize()
            return logits

        return run

    def tokens(self, work: Workload) -> list[int]:
        tiles = len(self._tiles(work))
        return [len(self.scorer.prepare(work.question, [tiles], steps).ids) for steps in work.candidates]

    def _tiles(self, work: Workload) -> NDArray[np.uint8]:
        (tiles,) = self.scorer.tiles([work.image], work.max_tiles)
        return tiles


def torch_contenders(checkpoint: Path, device: str) -> list[TorchContender]:
    """One pass a candidate, and prefix reuse, on one loaded model: bfloat16 on a GPU, float32 on a CPU."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    scorer = ReferenceScorer.load(checkpoint, dtype=dtype, device=device, attention="sdpa")
    kind = "bf16" if device == "cuda" else "fp32"
    return [
        TorchContender(f"PyTorch {kind}, one pass a candidate", scorer, "one-pass"),
        TorchContender(f"PyTorch {kind}, prefix reuse", scorer, "prefix-reuse"),
    ]


def compiled_contender(plain: TorchContender) -> TorchContender:
    """The one-pass contender with its LLM compiled; the plain one must not be used any more."""
    text_model = plain.scorer.model.model.language_model
    text_model.forward = torch.compile(text_model.forward, dynamic=True)
    return TorchContender(f"{plain.name}, torch.compile", plain.scorer, plain.method)
