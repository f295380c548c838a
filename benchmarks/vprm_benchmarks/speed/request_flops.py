"""Arithmetic of a best-of-N request: every tile once, the prefix once, and the rest of each candidate after it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from vprm_benchmarks.reference.model import tokens_per_tile
from vprm_benchmarks.reference.prompt import conversation_text, default_system_message
from vprm_benchmarks.reference.rule import VISUALPRM
from vprm_benchmarks.reference.scorer import common_prefix
from vprm_benchmarks.reference.tokenizer import load_tokenizer
from vprm_benchmarks.speed.arithmetic import LlmArithmetic, vision_flops_per_tile
from vprm_benchmarks.speed.models import Model
from vprm_benchmarks.speed.workload import Workload


@dataclass(frozen=True)
class RequestFlops:
    """Multiply-adds, times two: the least that a request needs, whatever a contender repeats."""

    vision: float
    llm: float

    @property
    def total(self) -> float:
        """Of the whole request."""
        return self.vision + self.llm

    @staticmethod
    def of(model: Model, work: Workload, tiles: int) -> RequestFlops:
        """Of a request with so many tiles, by the model's own layers."""
        config = json.loads((model.checkpoint / "config.json").read_text("utf-8"))
        vision = config["vision_config"]
        image_tokens = tiles * tokens_per_tile(model.tile_px, vision["patch_size"], config["downsample_ratio"])
        image = "<img>" + "<IMG_CONTEXT>" * image_tokens + "</img>"
        tokenizer, system = load_tokenizer(model.checkpoint), default_system_message()
        ids = [
            tokenizer.encode(conversation_text(VISUALPRM, system, work.question, steps, [image]))
            for steps in work.candidates
        ]
        prefix = common_prefix(ids)
        llm = LlmArithmetic.of(model.checkpoint).best_of_n_flops(prefix, [len(row) - prefix for row in ids])
        return RequestFlops(tiles * vision_flops_per_tile(model.checkpoint), llm)
