"""config.json and weights to transformers' native ``InternVLForConditionalGeneration``; no remote code.

transformers with a Llama text model reproduces the original InternVL + InternLM2 code exactly (logits equal in
float32). What the native model lacks is added here: ``ps_version`` v1, which leaves the shuffled tokens of a tile
transposed.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
)

from vprm_benchmarks.reference.weights import convert_tensor, iterate_checkpoint

AttentionKind = Literal["eager", "sdpa"]
_FAMILIES = {"InternLM2ForCausalLM": LlamaConfig, "LlamaForCausalLM": LlamaConfig, "Qwen2ForCausalLM": Qwen2Config}


def load_model(
    directory: Path, dtype: torch.dtype, device: str, attention: AttentionKind = "eager"
) -> InternVLForConditionalGeneration:
    """Build the model that ``directory``'s config.json describes and fill it with the directory's weights.

    Raises ValueError for an unknown LLM architecture and RuntimeError if tensors are missing or misshapen.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    model_config = internvl_config(config)
    model_config._attn_implementation = attention
    with torch.device("meta"):
        model: InternVLForConditionalGeneration = InternVLForConditionalGeneration(model_config)
    text: Any = model_config.text_config
    state: dict[str, torch.Tensor] = {}
    for name, tensor in iterate_checkpoint(directory):
        moved = tensor.to(device=device, dtype=dtype)
        state.update(convert_tensor(name, moved, text.num_attention_heads, text.num_key_value_heads))
    if model_config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    # Rotary frequencies are no part of a checkpoint and were made without storage above.
    rotary = model.model.language_model.rotary_emb
    model.model.language_model.rotary_emb = type(rotary)(config=text).to(device)
    model.train(False)
    model.requires_grad_(False)
    return model


def internvl_config(config: dict[str, Any]) -> InternVLConfig:
    """The transformers configuration for a hub ``InternVLChatConfig`` given as the parsed config.json."""
    llm, vision = config["llm_config"], config["vision_config"]
    architecture = llm["architectures"][0]
    if architecture not in _FAMILIES:
        raise ValueError(f"LLM architecture {architecture} is not supported; supported: {', '.join(_FAMILIES)}")
    tied = bool(llm.get("tie_word_embeddings", False))
    text_config = _FAMILIES[architecture](
        vocab_size=llm["vocab_size"],
        hidden_size=llm["hidden_size"],
        intermediate_size=llm["intermediate_size"],
        num_hidden_layers=llm["num_hidden_layers"],
        num_attention_heads=llm["num_attention_heads"],
        num_key_value_heads=llm["num_key_value_heads"],
        max_position_embeddings=llm["max_position_embeddings"],
        rms_norm_eps=llm["rms_norm_eps"],
        **_rope(llm),
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    vision_config = InternVLVisionConfig(
        hidden_size=vision["hidden_size"],
        num_hidden_layers=vision["num_hidden_layers"],
        num_attention_heads=vision["num_attention_heads"],
        intermediate_size=vision["intermediate_size"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        attention_bias=vision["qkv_bias"],
        use_qk_norm=vision["qk_normalization"],
        norm_type=vision.get("norm_type", "layer_norm"),
        layer_norm_eps=vision["layer_norm_eps"],
        hidden_act=vision["hidden_act"],
        use_mean_pooling=True,  # no norm after the last layer
    )
    tile_px = config.get("force_image_size") or vision["image_size"]
    return InternVLConfig(
        text_config=text_config,
        vision_config=vision_config,
        image_seq_length=tokens_per_tile(tile_px, vision["patch_size"], config["downsample_ratio"]),
        downsample_ratio=config["downsample_ratio"],
        vision_feature_layer=config["select_layer"],
        vision_feature_select_strategy="default",  # without the CLS token
        tie_word_embeddings=tied,
    )


def _rope(llm: dict[str, Any]) -> dict[str, Any]:
    """The rotary keys as they are spelled, for transformers' own class to read; without a base, none is assumed."""
    spelled = {key: llm[key] for key in ("rope_theta", "rope_scaling", "rope_parameters") if llm.get(key) is not None}
    nested = (llm.get(key) or {} for key in ("rope_scaling", "rope_parameters"))
    if "rope_theta" not in spelled and not any("rope_theta" in values for values in nested):
        raise ValueError("llm_config has no rope_theta, at its top or in rope_parameters: complete config.json")
    return spelled


def cache_argument(text_model: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument that hands a KV cache to the text model: ``past_key_values``, since transformers 5.24
    ``cache``."""
    names = inspect.signature(text_model.forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def tokens_per_tile(tile_px: int, patch_px: int, downsample_ratio: float) -> int:
    """LLM positions that one tile takes: patches after the pixel shuffle."""
    return int((tile_px // patch_px) ** 2 * downsample_ratio**2)
