"""What is scored: a picture of 12 tiles and a thumbnail, a question, N candidates of 10 steps; and its arithmetic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

QUESTION = (
    "In the figure, two lines cut the sides of the triangle. How large is the angle marked with a letter at the top?"
)
_WORDS = (
    "angle",
    "lines",
    "parallel",
    "because",
    "equal",
    "half",
    "turn",
    "number",
    "side",
    "the",
    "of",
    "is",
    "we",
    "so",
)


@dataclass(frozen=True)
class Workload:
    """A best-of-N request. Token counts depend on the tokenizer and are reported, not asked for."""

    image: Image.Image
    question: str
    candidates: tuple[tuple[str, ...], ...]


def workload(candidates: int, tile_px: int, steps: int = 10, words_per_step: int = 9) -> Workload:
    """The same picture and texts for the same sizes. The picture's sides are as 4 to 3: 12 tiles and a thumbnail.

    A candidate has about 320 tokens with the random checkpoints' tokenizer.
    """
    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(coarse).resize((4 * tile_px, 3 * tile_px), Image.Resampling.BICUBIC)
    texts = tuple(
        tuple(" ".join(random.choice(_WORDS, words_per_step)) + f" {number}." for number in range(steps))
        for _ in range(candidates)
    )
    return Workload(image, QUESTION, texts)


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
