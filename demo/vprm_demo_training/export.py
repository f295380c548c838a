"""Writes the checkpoint directory in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vprm_demo.generator.tiling import MAX_TILES

from .model import DemoPrm, ModelConfig
from .tokenizer import SYSTEM_MESSAGE

INDEX_NAME = "model.safetensors.index.json"
SHARDS = 2


def config_document(config: ModelConfig) -> dict[str, object]:
    """`config.json`, with the keys of OpenGVLab/VisualPRM-8B's that describe a model."""
    return {
        "architectures": ["InternVLRewardModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": config.image_size,
        "llm_config": _llm_config(config),
        "max_dynamic_patch": MAX_TILES,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "ps_version": "v2",
        "select_layer": -1,
        "system_message": SYSTEM_MESSAGE,
        "template": "internvl2_5",
        "torch_dtype": "float16",
        "use_thumbnail": True,
        "vision_config": _vision_config(config),
    }


def _llm_config(config: ModelConfig) -> dict[str, object]:
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "max_position_embeddings": 4096,
        "model_type": "internlm2",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": 2,
        "rms_norm_eps": config.rms_eps,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": config.vocab_size,
    }


def _vision_config(config: ModelConfig) -> dict[str, object]:
    return {
        "architectures": ["InternVisionModel"],
        "hidden_act": "gelu",
        "hidden_size": config.vision_width,
        "image_size": config.image_size,
        "intermediate_size": config.vision_ffn,
        "layer_norm_eps": 1e-6,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": config.vision_heads,
        "num_channels": 3,
        "num_hidden_layers": config.vision_layers,
        "patch_size": config.patch_size,
        "qk_normalization": False,
        "qkv_bias": True,
        "torch_dtype": "float16",
    }


def save_checkpoint(model: DemoPrm, folder: Path) -> None:
    """Write config, shards (float16) and index; tokenizer files are written by `tokenizer.write_tokenizer`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in model.state_dict().items()
    }
    total = sum(tensor.numel() * 2 for tensor in tensors.values())
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled > total / SHARDS and len(shards) < SHARDS:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.numel() * 2
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file_name)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config_document(model.config), indent=2) + "\n", encoding="utf-8")
