"""PyTorch on transformers' model with SDPA."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image

from vprm_benchmarks.reference.scorer import Method, ReferenceImages, ReferenceScorer
from vprm_benchmarks.speed.contenders import Scores
from vprm_benchmarks.speed.workload import Workload


class TimedReference(ReferenceScorer):
    """`vision_s`: seconds that tiling and the vision encoder have taken so far."""

    vision_s = 0.0

    def with_depth(self, layers: int, vision_layers: int) -> Self:
        """The same with the first layers only; weights are shared."""
        shared = {id(one): one for one in (*self.model.parameters(), *self.model.buffers())}
        other = copy.copy(self)
        other.vision_s = 0.0
        other.model = copy.deepcopy(self.model, shared)
        del other.model.model.language_model.layers[layers:]
        del other.model.model.vision_tower.encoder.layer[vision_layers:]
        other.model.config.text_config.num_hidden_layers = layers
        other.model.config.vision_config.num_hidden_layers = vision_layers
        return other

    def encode_images(self, images: Sequence[Path | Image.Image], max_tiles: int | None = None) -> ReferenceImages:
        started = time.perf_counter()
        encoded = super().encode_images(images, max_tiles)
        self.vision_s += time.perf_counter() - started
        return encoded


@dataclass
class TorchContender:
    """One method on one loaded model.

    `encodes_each`: the vision encoder runs for every candidate, as in the published code, unless the prefix is reused.
    `calls` > 1: one call is one candidate of as many.
    """

    name: str
    scorer: TimedReference
    method: Method
    calls: int = 1
    encodes_each: bool = True
    pruned: bool = False

    @property
    def description(self) -> str:
        """Library, version, device, precision, method."""
        model = self.scorer.model
        return f"PyTorch {torch.__version__}, {model.device}, {model.dtype}, SDPA, {self.method}"

    @property
    def vision_s(self) -> float:
        """Of the model, which other contenders may share."""
        return self.scorer.vision_s

    def scores(self, work: Workload) -> Scores:
        candidates = work.candidates[: 1 if self.calls > 1 else None]
        together = self.method == "prefix-reuse" or not self.encodes_each
        found = []
        for group in [candidates] if together else [[steps] for steps in candidates]:
            found += self.scorer.score([work.image], work.question, group, self.method, work.max_tiles)
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


def torch_contenders(checkpoint: Path, device: str) -> list[TorchContender]:
    """One pass per candidate, and prefix reuse, on one loaded model: bfloat16 on a GPU, float32 on a CPU."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    scorer = TimedReference.load(checkpoint, dtype=dtype, device=device, attention="sdpa")
    kind = "bf16" if device == "cuda" else "fp32"
    return [
        TorchContender(f"PyTorch {kind}, one pass a candidate", scorer, "one-pass", encodes_each=False),
        TorchContender(f"PyTorch {kind}, prefix reuse", scorer, "prefix-reuse"),
    ]


def compiled_contender(plain: TorchContender) -> TorchContender:
    """The one-pass contender with its LLM compiled; the plain one must not be used any more."""
    text_model = plain.scorer.model.model.language_model
    text_model.forward = torch.compile(text_model.forward, dynamic=True)
    return TorchContender(f"{plain.name}, torch.compile", plain.scorer, plain.method, encodes_each=plain.encodes_each)
