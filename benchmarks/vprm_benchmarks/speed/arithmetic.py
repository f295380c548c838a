"""Arithmetic of an LLM's forward pass, from its dimensions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LlmArithmetic:
    """Multiply-adds of an LLM's forward pass, times two, from its config.json."""

    layers: int
    linear_flops_per_token: float  # of one layer
    kv_flops_per_token: float  # of one layer's key and value projections
    attention_flops_per_pair: float  # of one layer and one (query, key) pair
    vocabulary_flops: float

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
            vocabulary_flops=2.0 * hidden * llm["vocab_size"],
        )

    def prefill_flops(self, tokens: int, *, pruned: bool) -> float:
        """A causal pass over `tokens` from an empty cache. `pruned`: no more than keys and values in the last layer, as
        in this package's graphs; otherwise all layers, without the head."""
        pairs = tokens * (tokens + 1) / 2
        full_layers = self.layers - 1 if pruned else self.layers
        flops = full_layers * (tokens * self.linear_flops_per_token + pairs * self.attention_flops_per_pair)
        return flops + (tokens * self.kv_flops_per_token if pruned else 0.0)
