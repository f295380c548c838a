"""transformers' own layout of InternVL (`model_type: internvl`, `OpenGVLab/InternVL3-*-hf`), read as the hub layout.

Source: transformers 5.23, models/internvl (configuration, modeling, processing) and models/got_ocr2 (image processor).
The same weights under other names, queries, keys and values apart. What the layout has no key for (template, system
message, tiling) is noted as assumed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vprm_export.architecture import Architecture
from vprm_export.checkpoint import Checkpoint, TensorEntry, read_json
from vprm_export.config_conflicts import check_llm_keys, check_vision_keys
from vprm_export.config_section import Section
from vprm_export.readings import Readings
from vprm_runtime.errors import CheckpointError, UnsupportedError, quoted

MODEL_TYPE = "internvl"
_TOP = {
    "vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "vision_tower.embeddings.position_embeddings": "vision_model.embeddings.position_embedding",
    "vision_tower.embeddings.patch_embeddings.projection.weight": "vision_model.embeddings.patch_embedding.weight",
    "vision_tower.embeddings.patch_embeddings.projection.bias": "vision_model.embeddings.patch_embedding.bias",
    "lm_head.weight": "language_model.lm_head.weight",
}
_PROJECTOR = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}
_VISION = {
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_VISION_LAYER = re.compile(r"vision_tower\.encoder\.layer\.(\d+)\.(.+)")
_QKV = re.compile(r"(vision_model\.encoder\.layers\.\d+\.attn)\.([qkv])_proj\.(weight|bias)")
_QK_NORM_EPS = 1e-6  # InternVLVisionRMSNorm, whatever layer_norm_eps is
# Defaults of transformers' classes, which a saved config.json may leave out.
_VISION_DEFAULTS = {
    "attention_bias": False, "use_qk_norm": False, "hidden_act": "gelu", "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6, "image_size": [448, 448], "patch_size": [14, 14], "num_channels": 3, "hidden_size": 1024,
    "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
}  # fmt: skip
_TEXT_DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6}
_PROCESSORS = ("GotOcr2ImageProcessor", "GotOcr2ImageProcessorFast", "GotOcr2ImageProcessorPil")
_PROCESSOR_CLASS = "InternVLProcessor"  # cuts images into tiles, whatever crop_to_patches of the image processor says
_PROCESSOR_KEYS = (
    "min_patches", "max_patches", "image_mean", "image_std", "resample", "size", "do_resize", "do_rescale",
    "do_normalize", "do_convert_rgb", "rescale_factor", "do_center_crop", "do_pad", "image_processor_type",
    "crop_size", "default_to_square", "use_thumbnail", "processor_class",
)  # fmt: skip
_HUB_TILING = ("use_thumbnail", "dynamic_image_size", "min_dynamic_patch", "max_dynamic_patch", "force_image_size")
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def note_unread_processor(path: Path, readings: Readings) -> None:
    """Note a mean or deviation of a hub layout's image processor: its own code has ImageNet's, whatever it says."""
    file = path / "preprocessor_config.json"
    found = read_json(file) if file.is_file() else {}
    for key, only in (("image_mean", _IMAGENET[0]), ("image_std", _IMAGENET[1])):
        if found.get(key) not in (None, only):
            why = f"the layout's own code has it; {file.name} says {quoted(json.dumps(found[key]), 60)}"
            readings.assume(key, json.dumps(only), why)


def is_hf_layout(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is transformers' own."""
    return config.get("model_type") == MODEL_TYPE


def as_hub_layout(checkpoint: Checkpoint, readings: Readings) -> Checkpoint:
    """The same checkpoint with the names and keys of the hub layout.

    Raises CheckpointError or UnsupportedError naming the tensor or key that has no counterpart there.
    """
    tensors = _hub_tensors(checkpoint)
    has_head = "language_model.lm_head.weight" in tensors
    config = _hub_config(checkpoint.config, checkpoint.path, has_head, readings)
    readings.read("layout", f"transformers ({MODEL_TYPE})", "config.json: model_type")
    return replace(checkpoint, config=config, tensors=tensors)


def _hub_tensors(checkpoint: Checkpoint) -> dict[str, TensorEntry]:
    renamed: dict[str, TensorEntry] = {}
    for name, entry in checkpoint.tensors.items():
        hub_name = _hub_name(name)
        if hub_name in renamed:
            raise CheckpointError(f"{checkpoint.path} has tensor {hub_name!r} twice, under two names: remove one")
        renamed[hub_name] = entry
    tensors: dict[str, TensorEntry] = {}
    for name, entry in renamed.items():
        match = _QKV.fullmatch(name)
        if match is None:
            tensors[name] = entry
        elif match[2] == "q":
            packed = [f"{match[1]}.{letter}_proj.{match[3]}" for letter in "qkv"]
            if missing := [part for part in packed if part not in renamed]:
                raise CheckpointError(f"{checkpoint.path} has {name!r} but no {missing[0]!r}: copy it again")
            tensors[f"{match[1]}.qkv.{match[3]}"] = TensorEntry.stacked([renamed[part] for part in packed])
    return tensors


def _hub_name(name: str) -> str:
    """A tensor's name in the hub layout; a name that is not known stays, and is refused as unused later."""
    plain = name.removeprefix("model.")
    if plain in _TOP:
        return _TOP[plain]
    if plain.startswith("language_model."):
        rest = plain.removeprefix("language_model.").removeprefix("model.")
        return f"language_model.{rest}" if rest == "lm_head.weight" else f"language_model.model.{rest}"
    role, _, kind = plain.removeprefix("multi_modal_projector.").rpartition(".")
    if plain.startswith("multi_modal_projector.") and role in _PROJECTOR:
        return f"mlp1.{_PROJECTOR[role]}.{kind}"
    match = _VISION_LAYER.fullmatch(plain)
    if match is None:
        return name
    layer, rest = f"vision_model.encoder.layers.{match[1]}", match[2]
    if rest in ("lambda_1", "lambda_2"):
        return f"{layer}.ls{rest[-1]}"
    role, _, kind = rest.rpartition(".")
    if role in ("attention.q_proj", "attention.k_proj", "attention.v_proj"):
        return f"{layer}.attn.{role.rpartition('.')[2]}.{kind}"
    return f"{layer}.{_VISION[role]}.{kind}" if role in _VISION else name


def _hub_config(config: Mapping[str, Any], path: Path, has_head: bool, readings: Readings) -> dict[str, Any]:
    top = Section(config, str(path / "config.json"), readings)
    top.one_of_list("architectures", ("InternVLForConditionalGeneration",))
    top.off("quantization_config")
    for key, only in (("projector_hidden_act", "gelu"), ("vision_feature_select_strategy", "default")):
        top.one_of(key, (only,), only)
    vision_section, text = top.section("vision_config"), top.section("text_config")
    check_vision_keys(vision_section, "its top", config)
    other = config.get("llm_config")
    check_llm_keys(text, {"its top": config, "llm_config": other if isinstance(other, Mapping) else {}})
    vision = _vision_config(vision_section)
    processor = _processor(path, readings)
    readings.assume("template", "internvl2_5", "transformers' layout does not name it")
    tiling = {"use_thumbnail": True, "dynamic_image_size": True, **processor}
    tiling["force_image_size"] = tiling["force_image_size"] or vision["image_size"]
    _check_hub_tiling(top, tiling)
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "template": "internvl2_5",
        "system_message": config.get("system_message"),
        "ps_version": "v2",
        "select_layer": top.integer("vision_feature_layer", -1, minimum=-(10**6)),
        "downsample_ratio": top.number("downsample_ratio", 0.5),
        "vision_config": vision,
        "llm_config": _llm_config(text, top, has_head),
        **tiling,
        **{key: config.get(key) for key in ("image_token_id", "image_seq_length")},
    }


def _vision_config(section: Section) -> dict[str, Any]:
    values = {key: section.given(key, default) for key, default in _VISION_DEFAULTS.items()}
    if section.optional("use_mean_pooling") is False:
        raise UnsupportedError(f"{section.name}: use_mean_pooling false (a norm after the last layer) is not supported")
    if section.optional("use_absolute_position_embeddings") is False:
        raise UnsupportedError(f"{section.name}: use_absolute_position_embeddings false is not supported")
    section.off("use_mask_token")
    for key in ("image_size", "patch_size"):
        sides = values[key] if isinstance(values[key], list) else [values[key]]
        if len(set(sides)) != 1:
            raise UnsupportedError(f"{section.name}: {key} {values[key]!r} is not supported, only squares are")
        values[key] = sides[0]
    if values["use_qk_norm"] and values["layer_norm_eps"] != _QK_NORM_EPS:
        raise UnsupportedError(
            f"{section.name}: use_qk_norm with a layer_norm_eps other than {_QK_NORM_EPS:g} is not supported"
        )
    return {**values, "qkv_bias": values.pop("attention_bias"), "qk_normalization": values.pop("use_qk_norm")}


def _llm_config(section: Section, top: Section, has_head: bool) -> dict[str, Any]:
    values = {**section.values, "model_type": section.given("model_type", "qwen2")}
    values |= {key: section.given(key, default) for key, default in _TEXT_DEFAULTS.items()}
    if section.optional("tie_word_embeddings") is None:  # the top's default is true, also if a head is stored
        values["tie_word_embeddings"] = not has_head and top.optional("tie_word_embeddings") is not False
        section.readings.assume(
            "text_config.tie_word_embeddings", values["tie_word_embeddings"], "absent: by whether a head is stored"
        )
    return values


def _check_hub_tiling(top: Section, tiling: Mapping[str, Any]) -> None:
    """Raise CheckpointError if config.json has keys of the hub layout that say something else than the processor."""
    for key in _HUB_TILING:
        value = top.optional(key)
        if value is not None and value != tiling[key]:
            raise CheckpointError(
                f"{top.name}: {key} is {quoted(repr(value), 40)}, and the image processor gives {tiling[key]}, "
                "which transformers takes: make both say what the model was trained with"
            )


def _processor_values(path: Path) -> dict[str, Any]:
    """What the image processor's files say, and under `_file` which of them was read last; empty without any."""
    found: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not (path / name).is_file():
            continue
        document = read_json(path / name)
        values = document.get("image_processor") or document
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{path / name}: image_processor is {type(values).__name__}, expected an object")
        values = {"processor_class": document.get("processor_class"), **values}
        for key in _PROCESSOR_KEYS:
            mine, other = found.get(key), values.get(key)
            if mine is not None and other is not None and mine != other:
                raise CheckpointError(
                    f"{path}: {key} is {quoted(repr(mine), 40)} in {found['_file']} and {quoted(repr(other), 40)} in "
                    f"{name}: keep the one that the model was trained with"
                )
        found = {**found, **{key: value for key, value in values.items() if value is not None}, "_file": name}
    return found


def _processor(path: Path, readings: Readings) -> dict[str, Any]:
    """Tiling from the image processor's file, if there is one: tiles at least and at most, and the tile's edge."""
    found = _processor_values(path)
    section = Section(found, str(path / found.get("_file", "preprocessor_config.json")), readings)
    tiling: dict[str, Any] = {}
    for key, hub_key, default in (("min_patches", "min_dynamic_patch", 1), ("max_patches", "max_dynamic_patch", 12)):
        if found.get(key) is None:
            readings.assume(hub_key, default, f"no {key} in an image processor's file: transformers' default")
            tiling[hub_key] = default
        else:
            tiling[hub_key] = section.integer(key)
            readings.read(hub_key, tiling[hub_key], f"{found['_file']}: {key}")
    if found:
        _check_pixels(section)
        _check_steps(section)
    return {**tiling, "force_image_size": _tile_edge(section)}


def _tile_edge(section: Section) -> int | None:
    """The tile's edge in pixels, None if no file says it."""
    size = section.optional("size")
    if size is None:
        if section.values:
            section.readings.assume("tile edge", "vision_config's image_size", "no size in the image processor's file")
        return None
    sides = size if isinstance(size, Mapping) else {"height": size, "width": size}
    if set(sides) != {"height", "width"} or sides["height"] != sides["width"]:
        raise UnsupportedError(
            f"{section.name}: size {quoted(json.dumps(size), 60)} is not supported, only height and width of a square"
        )
    return Section(sides, f"{section.name}: size", section.readings).integer("height")


def _check_pixels(section: Section) -> None:
    """Raise UnsupportedError for means, deviations and resizing other than those of the runtime."""
    for key, only in (("image_mean", _IMAGENET[0]), ("image_std", _IMAGENET[1])):
        if section.optional(key) != only:
            absent = " (for null transformers takes CLIP's)" if section.optional(key) is None else ""
            raise UnsupportedError(
                f"{section.name}: {key} {quoted(json.dumps(section.optional(key)), 60)}{absent} is not supported, only "
                f"{only} is"
            )
    resample = section.optional("resample")
    if resample not in (None, 3):
        raise UnsupportedError(
            f"{section.name}: resample {quoted(repr(resample), 40)} is not supported, only 3 (bicubic) is"
        )


def _check_steps(section: Section) -> None:
    """Raise UnsupportedError for what an image processor does otherwise than transformers' own for this model."""
    for key in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "default_to_square", "use_thumbnail"):
        if section.optional(key) not in (None, True):
            raise UnsupportedError(
                f"{section.name}: {key} {quoted(json.dumps(section.optional(key)), 40)} is not supported, only true is"
            )
    factor = section.optional("rescale_factor")
    if factor is not None and (not isinstance(factor, int | float) or abs(factor * 255 - 1) > 1e-6):
        raise UnsupportedError(
            f"{section.name}: rescale_factor {quoted(repr(factor), 40)} is not supported, only 1/255"
        )
    section.off("do_center_crop", "do_pad", "crop_size")
    for key, known in (("image_processor_type", _PROCESSORS), ("processor_class", (_PROCESSOR_CLASS,))):
        if section.optional(key) is not None and section.optional(key) not in known:
            raise UnsupportedError(
                f"{section.name}: {key} {quoted(section.optional(key), 60)} is not supported, {known[0]} is"
            )


def check_image_tokens(
    config: Mapping[str, Any], img_context: int, architecture: Architecture, readings: Readings
) -> None:
    """Hold `image_token_id` and `image_seq_length` against the tokenizer and the vision encoder.

    Raises CheckpointError if `image_token_id` is another token of the vocabulary. Values that cannot be meant (defaults
    of a larger model) are noted.
    """
    token = config.get("image_token_id")
    if isinstance(token, int) and token != img_context:
        if token < architecture.llm.vocabulary:
            raise CheckpointError(
                f"config.json: image_token_id is {token}, the tokenizer has <IMG_CONTEXT> at {img_context}"
            )
        readings.assume("image token", img_context, f"the tokenizer's; image_token_id {token} is outside of vocab_size")
    length, tokens_per_tile = config.get("image_seq_length"), architecture.vision.tokens_per_tile
    if length is not None and length != tokens_per_tile:
        readings.assume("tokens per tile", tokens_per_tile, f"of the vision encoder; image_seq_length says {length}")
