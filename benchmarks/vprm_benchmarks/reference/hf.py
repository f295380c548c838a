"""Checkpoints in transformers' own layout: transformers loads them itself, names and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import InternVLForConditionalGeneration


def is_native(config: dict[str, Any]) -> bool:
    """Whether a config.json is of transformers' own InternVL."""
    return config.get("model_type") == "internvl"


def load_native(directory: Path, dtype: torch.dtype, device: str, attention: str) -> InternVLForConditionalGeneration:
    """The model as transformers loads it."""
    model = InternVLForConditionalGeneration.from_pretrained(
        str(directory), dtype=dtype, attn_implementation=attention, local_files_only=True
    ).to(device)
    model.train(False)
    model.requires_grad_(False)
    return model


def native_settings(directory: Path, model: InternVLForConditionalGeneration) -> dict[str, Any]:
    """What the scorer needs beside the model, under the keys of a hub config.json; tiling as in the image processor."""
    processor: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (directory / name).is_file():
            document = json.loads((directory / name).read_text(encoding="utf-8"))
            processor |= document.get("image_processor") or document
    vision = model.config.vision_config
    return {
        "vision_config": {"image_size": vision.image_size[0], "patch_size": vision.patch_size[0]},
        "force_image_size": (processor.get("size") or {}).get("height"),
        "downsample_ratio": model.config.downsample_ratio,
        "min_dynamic_patch": processor.get("min_patches") or 1,
        "max_dynamic_patch": processor.get("max_patches") or 12,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "ps_version": "v2",
    }
