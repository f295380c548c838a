"""What the exporter needs to know of a model, read from config.json; everything unknown is refused by name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vprm_runtime.errors import CheckpointError, UnsupportedError

LlmFamily = Literal["internlm2", "llama", "qwen2"]
_LLM_FAMILIES: tuple[LlmFamily, ...] = get_args(LlmFamily)
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
    def from_config(config: Mapping[str, Any], path: Path) -> "Architecture":
        """Read config.json of an InternVL-style PRM. Raises CheckpointError or UnsupportedError naming the key."""
        top = _Section(config, str(path / "config.json"))
        top.one_of("model_type", ("internvl_chat",))
        top.one_of_list("architectures", _REWARD_ARCHITECTURES)
        system_message = config.get("system_message")
        return Architecture(
            vision=_vision(top),
            llm=_llm(top.section("llm_config")),
            template=top.one_of("template", _TEMPLATES),
            system_message=system_message if isinstance(system_message, str) else None,
            min_tiles=top.integer("min_dynamic_patch", 1),
            max_tiles=top.integer("max_dynamic_patch", 12) if top.flag("dynamic_image_size", True) else 1,
            use_thumbnail=top.flag("use_thumbnail", False),
        )

    def is_idle(self, tensor: str) -> bool:
        """Whether a checkpoint's tensor has no part in scores: layers past select_layer, derived rotary tables."""
        layer = re.match(r"vision_model\.encoder\.layers\.(\d+)\.", tensor)
        tied = self.llm.tied_head and tensor in ("language_model.lm_head.weight", "language_model.output.weight")
        return (
            tied
            or tensor.endswith("rotary_emb.inv_freq")
            or (layer is not None and int(layer[1]) >= self.vision.layers)
        )


def _vision(top: "_Section") -> VisionArchitecture:
    section = top.section("vision_config")
    section.one_of("hidden_act", ("gelu",), "gelu")
    section.one_of("num_channels", (3,), 3)
    trained_image_px = section.integer("image_size")
    image_px = top.integer("force_image_size", trained_image_px)
    patch_px = section.integer("patch_size")
    ratio = top.number("downsample_ratio", 0.5)
    shuffle = round(1 / ratio)
    if abs(shuffle * ratio - 1) > 1e-6 or image_px % (patch_px * shuffle):
        raise UnsupportedError(
            f"{top.name}: downsample_ratio {ratio} does not divide {image_px} pixels in {patch_px}-pixel patches evenly"
        )
    layers = section.integer("num_hidden_layers")
    select_layer = top.integer("select_layer", -1, minimum=-layers - 1)
    run_layers = layers + 1 + select_layer if select_layer < 0 else select_layer
    if not 0 <= run_layers <= layers:
        raise UnsupportedError(f"{top.name}: select_layer {select_layer} is outside of {layers} layers")
    return VisionArchitecture(
        layers=run_layers,
        hidden_size=section.integer("hidden_size"),
        heads=section.integer("num_attention_heads"),
        mlp_size=section.integer("intermediate_size"),
        patch_px=patch_px,
        image_px=image_px,
        trained_image_px=trained_image_px,
        norm=section.one_of("norm_type", ("layer_norm", "rms_norm"), "rms_norm"),
        norm_eps=section.number("layer_norm_eps", 1e-6),
        qk_norm=section.flag("qk_normalization", True),
        qkv_bias=section.flag("qkv_bias", False),
        shuffle=shuffle,
        transposed_shuffle=top.one_of("ps_version", ("v1", "v2"), "v1") == "v1",
    )


def _llm(section: "_Section") -> LlmArchitecture:
    family = section.one_of("model_type", _LLM_FAMILIES)
    section.one_of("hidden_act", ("silu",), "silu")
    if family == "internlm2":
        section.one_of("bias", (False,), False)
    if family == "llama":
        section.one_of("attention_bias", (False,), False)
        section.one_of("mlp_bias", (False,), False)
    if family == "qwen2":
        section.one_of("use_sliding_window", (False,), False)
    rope = section.values.get("rope_scaling")
    kind = rope.get("type", rope.get("rope_type")) if isinstance(rope, Mapping) else None
    if kind not in (None, "default", "dynamic"):
        raise UnsupportedError(f"{section.name}: rope_scaling {kind!r} is not supported, only none and dynamic are")
    heads, hidden_size = section.integer("num_attention_heads"), section.integer("hidden_size")
    return LlmArchitecture(
        family=family,
        layers=section.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=section.integer("num_key_value_heads", heads),
        head_dim=section.integer("head_dim", hidden_size // heads),
        mlp_size=section.integer("intermediate_size"),
        norm_eps=section.number("rms_norm_eps", 1e-6),
        rope_base=section.number("rope_theta", 10000.0),
        max_positions_tokens=section.integer("max_position_embeddings"),
        vocabulary=section.integer("vocab_size"),
        qkv_bias=family == "qwen2",
        tied_head=section.flag("tie_word_embeddings", False),
    )


class _Section:
    """One object of config.json with checked access; messages name the file and key."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self.values = values
        self.name = name

    def section(self, key: str) -> "_Section":
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.name} has no object {key!r}: is this an InternVL-style checkpoint?")
        return _Section(value, f"{self.name}: {key}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{self.name} has no {key!r}: complete it from the model's own config.json")
        return value

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise CheckpointError(f"{self.name}: {key} is {value!r}, expected an integer of at least {minimum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"{self.name}: {key} is {value!r}, expected a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {value!r}, expected true or false")
        return value

    def one_of(self, key: str, supported: Sequence[Any], default: Any = None) -> Any:
        value = self._get(key, default)
        if value not in supported:
            raise UnsupportedError(f"{self.name}: {key} {value!r} is not supported; supported: {list(supported)}")
        return value

    def one_of_list(self, key: str, supported: Sequence[str]) -> None:
        values = self._get(key, None)
        if not isinstance(values, list) or not set(values) & set(supported):
            raise UnsupportedError(f"{self.name}: {key} {values!r} is not supported; supported: {list(supported)}")
