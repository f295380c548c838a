"""Arithmetic that a model asks for, from its dimensions: multiply-adds, times two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LlmArithmetic:
    """Multiply-adds of an LLM's forward pass, times two, from its config.json."""

    layers: int
    linear_flops_per_token: float  # of one layer
    kv_flops_per_token: float  # of one layer's key and value projections
    attention_flops_per_pair: float  # of one layer and one (query, key) pair

    @staticmethod
    def of(checkpoint: Path) -> LlmArithmetic:
        """From a checkpoint directory."""
        llm = json.loads((checkpoint / "config.json").read_text("utf-8"))["llm_config"]
        hidden, heads = llm["hidden_size"], llm["num_attention_heads"]
        head_dim = hidden // heads
        q, kv, mlp = heads * head_dim, llm["num_key_value_heads"] * head_dim, llm["intermediate_size"]
        return LlmArithmetic(
            layers=llm["num_hidden_layers"],
            linear_flops_per_token=2.0 * hidden * (2 * q + 2 * kv + 3 * mlp),
            kv_flops_per_token=2.0 * hidden * 2 * kv,
            attention_flops_per_pair=4.0 * q,
        )

    def prefill_flops(self, tokens: int, *, pruned: bool) -> float:
        """A causal pass over `tokens` from an empty cache. `pruned`: no more than keys and values in the last layer, as
        in this package's graphs; otherwise all layers, without the head."""
        pairs = tokens * (tokens + 1) / 2
        full_layers = self.layers - 1 if pruned else self.layers
        flops = full_layers * (tokens * self.linear_flops_per_token + pairs * self.attention_flops_per_pair)
        return flops + (tokens * self.kv_flops_per_token if pruned else 0.0)

    def step_flops(self, tokens: int, cached: int) -> float:
        """`tokens` after `cached` ones of which the last is scored: it alone goes on in the last layer."""
        pairs = tokens * cached + tokens * (tokens + 1) / 2
        flops = (self.layers - 1) * (tokens * self.linear_flops_per_token + pairs * self.attention_flops_per_pair)
        last = self.linear_flops_per_token - self.kv_flops_per_token + (cached + tokens) * self.attention_flops_per_pair
        return flops + tokens * self.kv_flops_per_token + last

    def best_of_n_flops(self, prefix: int, rests: Sequence[int]) -> float:
        """A prefix once and the rest of each candidate after it, through all layers, without the head."""
        tokens = prefix + sum(rests)
        pairs = prefix * (prefix + 1) / 2 + sum(rest * prefix + rest * (rest + 1) / 2 for rest in rests)
        return self.layers * (tokens * self.linear_flops_per_token + pairs * self.attention_flops_per_pair)


def vision_flops_per_tile(checkpoint: Path) -> float:
    """Multiply-adds of one tile through vision encoder and projector, times two, from the checkpoint's config.json."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text("utf-8"))
    vision, llm_hidden = config["vision_config"], config["llm_config"]["hidden_size"]
    hidden, patch, shuffled = vision["hidden_size"], vision["patch_size"], round(1 / config["downsample_ratio"]) ** 2
    patches = ((config.get("force_image_size") or vision["image_size"]) // patch) ** 2
    tokens = patches + 1  # CLS
    layer = 2.0 * tokens * hidden * (4 * hidden + 2 * vision["intermediate_size"]) + 4.0 * tokens**2 * hidden
    projector = 2.0 * patches / shuffled * (shuffled * hidden * llm_hidden + llm_hidden**2)
    flops: float = vision["num_hidden_layers"] * layer + 2.0 * patches * 3 * patch**2 * hidden + projector
    return flops
