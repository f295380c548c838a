"""What a random checkpoint looks like: frozen dataclasses, and presets from test width to the real 8 B shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

LlmFamily = Literal["internlm2", "qwen2", "llama"]
DtypeName = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class LlmSpec:
    """Language model dimensions, in the terms of ``llm_config`` in config.json."""

    family: LlmFamily = "internlm2"
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 128
    rope_theta: float = 1_000_000.0
    rope_scaling: Mapping[str, object] | None = None
    max_position: int = 32768
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class VisionSpec:
    """InternViT dimensions, in the terms of ``vision_config`` in config.json.

    ``image_size`` is the tile's side in pixels (config.json ``force_image_size``); ``position_image_size`` the side
    the position table was made for (``vision_config.image_size``), None for the same: if they differ, positions
    are interpolated.
    """

    hidden: int = 48
    layers: int = 2
    heads: int = 4
    mlp: int = 96
    image_size: int = 56
    patch: int = 14
    position_image_size: int | None = None
    qk_norm: bool = False
    qkv_bias: bool = True
    norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm"
    select_layer: int = -1
    ps_version: Literal["v1", "v2"] = "v2"
    downsample_ratio: float = 0.5

    @property
    def table_image_size(self) -> int:
        """Side in pixels that the position table was made for."""
        return self.image_size if self.position_image_size is None else self.position_image_size

    @property
    def tokens_per_tile(self) -> int:
        """LLM positions that one tile takes."""
        return int((self.image_size // self.patch) ** 2 * self.downsample_ratio**2)


@dataclass(frozen=True)
class CheckpointSpec:
    """A whole checkpoint directory.

    ``max_shard_bytes`` None writes one ``model.safetensors``; a number writes shards and an index. ``tokenizer_dir``
    names a directory whose tokenizer files are copied; None trains a small tokenizer of the family's kind.
    ``vocab_size`` pads the embedding tables beyond the tokenizer, as hub models do; None takes the tokenizer's size.
    """

    llm: LlmSpec = field(default_factory=LlmSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    dtype: DtypeName = "float32"
    max_shard_bytes: int | None = None
    tokenizer_dir: Path | None = None
    vocab_size: int | None = None
    template: str = "internvl2_5"
    system_message: str | None = "Judge each step. Answer + or -."
    min_dynamic_patch: int = 1
    max_dynamic_patch: int = 12
    seed: int = 0


def tiny_spec(family: LlmFamily = "internlm2") -> CheckpointSpec:
    """Test widths: 56 px tiles of 4 tokens, three LLM layers, under a megabyte in float32."""
    return CheckpointSpec(
        llm=LlmSpec(family=family, rope_scaling=_INTERNLM2_ROPE_SCALING if family == "internlm2" else None)
    )


def visualprm_8b_spec(llm_layers: int = 32, vision_layers: int = 24) -> CheckpointSpec:
    """Layer shapes of OpenGVLab/VisualPRM-8B (its config.json), with the given numbers of layers.

    The full preset has 573 tensors and 16.2 GB in bfloat16; ``8b-slice`` for benchmarks is the same with fewer layers.
    """
    llm = LlmSpec(
        family="internlm2",
        hidden=4096,
        layers=llm_layers,
        heads=32,
        kv_heads=8,
        ffn=14336,
        rope_scaling=_INTERNLM2_ROPE_SCALING,
    )
    vision = VisionSpec(hidden=1024, layers=vision_layers, heads=16, mlp=4096, image_size=448, patch=14)
    return replace(
        CheckpointSpec(),
        llm=llm,
        vision=vision,
        dtype="bfloat16",
        max_shard_bytes=5_000_000_000,
        vocab_size=92553,
        system_message=None,
    )


_INTERNLM2_ROPE_SCALING: Mapping[str, object] = {"type": "dynamic", "factor": 2.0}
