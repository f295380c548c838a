"""What the exporter needs to know of a model, read from config.json; everything unknown is refused by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vprm_export.config_conflicts import check_llm_keys, check_vision_keys
from vprm_export.config_section import Section
from vprm_export.readings import Readings
from vprm_export.rope import rope_base
from vprm_runtime.errors import CheckpointError, UnsupportedError
from vprm_runtime.options import MAX_TILES_LIMIT

LlmFamily = Literal["internlm2", "llama", "qwen2"]
_LLM_FAMILIES: tuple[LlmFamily, ...] = get_args(LlmFamily)
_LLM_CLASSES: Mapping[LlmFamily, str] = {
    "internlm2": "InternLM2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
EMBEDDING_NAMES = ("language_model.model.embed_tokens.weight", "language_model.model.tok_embeddings.weight")
HEAD_NAMES = ("language_model.lm_head.weight", "language_model.output.weight")
_FULL = {"full_attention"}
_MAX_LAYERS = 1 << 10
_MAX_IMAGE_PX = 1 << 11
_TEMPLATES = ("internvl2_5",)
_REWARD_ARCHITECTURES = ("InternVLRewardModel", "InternVLChatModel")


@dataclass(frozen=True)
class VisionArchitecture:
    """InternViT and its way to LLM embeddings. Source of each key: vision_config and the top of config.json."""

    layers: int  # layers that are run: num_hidden_layers cut by select_layer
    hidden_size: int
    heads: int
    mlp_size: int  # intermediate_size
    patch_px: int  # patch_size
    image_px: int  # force_image_size: the tile edge that is run
    trained_image_px: int  # vision_config.image_size: what the position embeddings are stored for
    norm: Literal["layer_norm", "rms_norm"]  # norm_type
    norm_eps: float  # layer_norm_eps
    qk_norm: bool  # qk_normalization
    qkv_bias: bool
    shuffle: int  # 1 / downsample_ratio
    transposed_shuffle: bool  # ps_version v1 leaves the grid transposed
    stated_layers: int  # num_hidden_layers

    @property
    def patches_per_side(self) -> int:
        """Patches along a tile's edge."""
        return self.image_px // self.patch_px

    @property
    def tokens_per_tile(self) -> int:
        """LLM tokens of one tile."""
        return (self.patches_per_side // self.shuffle) ** 2


@dataclass(frozen=True)
class LlmArchitecture:
    """The language model. Source of each key: llm_config of config.json."""

    family: LlmFamily
    layers: int  # num_hidden_layers
    hidden_size: int
    heads: int  # num_attention_heads
    kv_heads: int  # num_key_value_heads
    head_dim: int
    mlp_size: int  # intermediate_size
    norm_eps: float  # rms_norm_eps
    rope_base: float  # rope_theta
    max_positions_tokens: int  # max_position_embeddings
    vocabulary: int  # vocab_size
    qkv_bias: bool
    tied_head: bool  # tie_word_embeddings


@dataclass(frozen=True)
class Architecture:
    """A whole PRM checkpoint: both models, prompt template and tiling defaults."""

    vision: VisionArchitecture
    llm: LlmArchitecture
    template: str
    system_message: str | None
    min_tiles: int
    max_tiles: int
    use_thumbnail: bool

    @staticmethod
    def from_config(config: Mapping[str, Any], path: Path, readings: Readings | None = None) -> "Architecture":
        """Read config.json of an InternVL-style PRM; `readings` gets what was read and what was assumed.

        Raises CheckpointError or UnsupportedError naming the key that is missing, contradicted or not supported.
        """
        readings = Readings() if readings is None else readings
        top = Section(config, str(path / "config.json"), readings)
        top.one_of("model_type", ("internvl_chat",))  # "internvl" has become it, see hf_layout
        top.one_of_list("architectures", _REWARD_ARCHITECTURES)
        top.off("pad2square", "quantization_config")
        system_message = top.optional("system_message")
        if not isinstance(system_message, str | None):
            raise CheckpointError(f"{top.name}: system_message is {type(system_message).__name__}, expected text")
        dynamic = top.flag("dynamic_image_size")
        max_tiles = top.integer("max_dynamic_patch", maximum=MAX_TILES_LIMIT) if dynamic else 1
        return Architecture(
            vision=_vision(top),
            llm=_llm(top.section("llm_config"), top),
            template=top.one_of("template", _TEMPLATES),
            system_message=system_message,
            min_tiles=top.integer("min_dynamic_patch", maximum=max_tiles) if dynamic else 1,
            max_tiles=max_tiles,
            use_thumbnail=top.flag("use_thumbnail"),
        )

    def is_idle(self, tensor: str) -> bool:
        """Whether a checkpoint's tensor has no part in scores: layers past select_layer, derived rotary tables."""
        layer = re.match(r"vision_model\.encoder\.layers\.(\d+)\.", tensor)
        tied = self.llm.tied_head and tensor in HEAD_NAMES
        return (
            tied
            or tensor.endswith("rotary_emb.inv_freq")
            or (layer is not None and self.vision.layers <= int(layer[1]) < self.vision.stated_layers)
        )


def _vision(top: Section) -> VisionArchitecture:
    section = top.section("vision_config")
    check_vision_keys(section, "its top", top.values)
    section.one_of("hidden_act", ("gelu",))
    section.one_of("num_channels", (3,), 3)
    trained_image_px = section.integer("image_size")
    image_px = top.integer("force_image_size", trained_image_px, maximum=_MAX_IMAGE_PX)
    patch_px = section.integer("patch_size")
    ratio = top.number("downsample_ratio", 0.5)
    shuffle = round(1 / ratio)
    if abs(shuffle * ratio - 1) > 1e-6 or image_px % (patch_px * shuffle):
        raise UnsupportedError(
            f"{top.name}: downsample_ratio {ratio} does not divide {image_px} pixels in {patch_px}-pixel patches evenly"
        )
    layers = section.integer("num_hidden_layers", maximum=_MAX_LAYERS)
    select_layer = top.integer("select_layer", minimum=-layers - 1)
    run_layers = layers + 1 + select_layer if select_layer < 0 else select_layer
    if not 0 <= run_layers <= layers:
        raise UnsupportedError(f"{top.name}: select_layer {select_layer} is outside of {layers} layers")
    heads, hidden_size = section.integer("num_attention_heads"), section.integer("hidden_size")
    if hidden_size % heads:
        raise CheckpointError(f"{section.name}: hidden_size {hidden_size} is no multiple of {heads} attention heads")
    return VisionArchitecture(
        layers=run_layers,
        hidden_size=hidden_size,
        heads=heads,
        mlp_size=section.integer("intermediate_size"),
        patch_px=patch_px,
        image_px=image_px,
        trained_image_px=trained_image_px,
        norm=section.one_of("norm_type", ("layer_norm", "rms_norm"), "rms_norm"),
        norm_eps=section.number("layer_norm_eps", maximum=1.0),
        qk_norm=section.flag("qk_normalization", True),
        qkv_bias=section.flag("qkv_bias", False),
        shuffle=shuffle,
        transposed_shuffle=top.one_of("ps_version", ("v1", "v2")) == "v1",
        stated_layers=layers,
    )


def _llm(section: Section, top: Section) -> LlmArchitecture:
    other = top.optional("text_config")
    check_llm_keys(section, {"its top": top.values, "text_config": other if isinstance(other, Mapping) else {}})
    family = section.one_of("model_type", _LLM_FAMILIES)
    if section.optional("architectures") is not None:
        section.one_of_list("architectures", (_LLM_CLASSES[family],))
    section.one_of("hidden_act", ("silu",))
    section.off("bias", "attention_bias", "mlp_bias", "use_sliding_window", "quantization_config")
    layer_types = section.optional("layer_types")
    if layer_types is not None and not (isinstance(layer_types, list) and set(map(str, layer_types)) == _FULL):
        raise UnsupportedError(f"{section.name}: layer_types other than full_attention are not supported")
    heads, hidden_size = section.integer("num_attention_heads"), section.integer("hidden_size")
    if section.optional("head_dim") is None and hidden_size % heads:
        raise CheckpointError(f"{section.name}: hidden_size {hidden_size} is no multiple of {heads} attention heads")
    kv_heads = section.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(f"{section.name}: {heads} attention heads are no multiple of {kv_heads} key-value heads")
    return LlmArchitecture(
        family=family,
        layers=section.integer("num_hidden_layers", maximum=_MAX_LAYERS),
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden_size // heads if section.optional("head_dim") is None else section.integer("head_dim"),
        mlp_size=section.integer("intermediate_size"),
        norm_eps=section.number("rms_norm_eps", maximum=1.0),
        rope_base=rope_base(section),
        max_positions_tokens=section.integer("max_position_embeddings"),
        vocabulary=section.integer("vocab_size"),
        qkv_bias=family == "qwen2",
        tied_head=section.flag("tie_word_embeddings", False),
    )
