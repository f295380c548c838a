"""Checkpoint tensors to a transformers state dict: names changed, packed attention projections taken apart, values
untouched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

_VISION_EMBEDDINGS = "model.vision_tower.embeddings"
_TOP = {
    "vision_model.embeddings.class_embedding": f"{_VISION_EMBEDDINGS}.cls_token",
    "vision_model.embeddings.position_embedding": f"{_VISION_EMBEDDINGS}.position_embeddings",
    "vision_model.embeddings.patch_embedding.weight": f"{_VISION_EMBEDDINGS}.patch_embeddings.projection.weight",
    "vision_model.embeddings.patch_embedding.bias": f"{_VISION_EMBEDDINGS}.patch_embeddings.projection.bias",
    "language_model.model.tok_embeddings.weight": "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
    "language_model.model.norm.weight": "model.language_model.norm.weight",
    "language_model.output.weight": "lm_head.weight",
    "language_model.lm_head.weight": "lm_head.weight",
}
_PROJECTOR = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}
_VISION = {
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_INTERNLM2 = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def iterate_checkpoint(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) of every tensor of the checkpoint, one in memory at a time.

    ``model.safetensors`` if it is there; else each tensor from the file that the index names for it.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    files: dict[str, set[str] | None] = {}
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
    parts = set(weight_map.values())
    if single.is_file() and not (single.name in parts and len(parts) > 1):  # not one of several files of the index
        files[single.name] = None
    else:
        for tensor, name in weight_map.items():
            files[name] = (files.get(name) or set()) | {tensor}
    listed = set().union(*(tensors or set() for tensors in files.values()))
    for name, wanted in files.items():
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name} is missing: the checkpoint is incomplete, download it again")
        with safe_open(directory / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                if wanted is None or key in wanted or key not in listed:
                    yield key, file.get_tensor(key)


def convert_tensor(name: str, tensor: torch.Tensor, heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """One checkpoint tensor under its transformers name(s); ``heads`` and ``kv_heads`` are the LLM's.

    KeyError for a name that no supported checkpoint has.
    """
    if name in _TOP:
        return {_TOP[name]: tensor}
    if match := re.fullmatch(r"mlp1\.([013])\.(weight|bias)", name):
        return {f"model.multi_modal_projector.{_PROJECTOR[match[1]]}.{match[2]}": tensor}
    if match := re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)", name):
        return _vision_layer(f"model.vision_tower.encoder.layer.{match[1]}", match[2], tensor)
    if match := re.fullmatch(r"language_model\.model\.layers\.(\d+)\.(.+)", name):
        return _llm_layer(f"model.language_model.layers.{match[1]}", match[2], tensor, heads, kv_heads)
    raise KeyError(f"checkpoint tensor {name} has no counterpart in transformers' InternVL")


def _vision_layer(layer: str, rest: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if rest in ("ls1", "ls2"):
        return {f"{layer}.lambda_{rest[-1]}": tensor}
    role, kind = rest.rsplit(".", 1)
    if role == "attn.qkv":
        parts = tensor.chunk(3, dim=0)  # rows [q; k; v]
        return {
            f"{layer}.attention.{letter}_proj.{kind}": part.contiguous()
            for letter, part in zip("qkv", parts, strict=True)
        }
    return {f"{layer}.{_VISION[role]}.{kind}": tensor}


def _llm_layer(layer: str, rest: str, tensor: torch.Tensor, heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    role, kind = rest.rsplit(".", 1)
    if role == "attention.wqkv":
        # Rows by group of one key-value head: its query heads, then the key, then the value
        # (InternLM2Attention.forward).
        per_group = heads // kv_heads + 2
        columns = tensor.shape[1:]
        grouped = tensor.view(kv_heads, per_group, -1, *columns)  # [kv_heads, queries + 2, head_dim, hidden]
        return {
            f"{layer}.self_attn.q_proj.{kind}": grouped[:, :-2].reshape(-1, *columns).contiguous(),
            f"{layer}.self_attn.k_proj.{kind}": grouped[:, -2].reshape(-1, *columns).contiguous(),
            f"{layer}.self_attn.v_proj.{kind}": grouped[:, -1].reshape(-1, *columns).contiguous(),
        }
    if role in _INTERNLM2:
        return {f"{layer}.{_INTERNLM2[role]}.{kind}": tensor}
    return {f"{layer}.{rest}": tensor}
