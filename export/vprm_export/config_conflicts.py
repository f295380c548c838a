"""Keys of a model that config.json has at two places: they must agree, or what is taken is said.

The original's classes read `llm_config` and `vision_config` alone. A key of theirs at the top, or in a second section
(`text_config` beside `llm_config`), may be an edit that somebody trusts in, so a contradiction is never settled in
silence.
"""

from collections.abc import Mapping
from typing import Any

from vprm_export.config_section import Section
from vprm_runtime.errors import CheckpointError, quoted

_LLM_KEYS = (
    "hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings",
    "num_attention_heads", "num_key_value_heads", "head_dim", "partial_rotary_factor", "layer_types",
    "use_sliding_window", "bias", "attention_bias", "mlp_bias",
)  # fmt: skip
_VISION_KEYS = ("image_size", "patch_size", "norm_type", "layer_norm_eps", "qk_normalization", "qkv_bias")
_FITTING_WEIGHTS = ("hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size")
_TIED = "tie_word_embeddings"


def check_llm_keys(section: Section, others: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold the LLM's keys against those at other places, given by name.

    Raises CheckpointError for a key that decides scores and that the weights cannot settle. What the weights settle,
    and whether the head is tied (`llm_config` says it in the original's code), is noted as assumed.
    """
    for place, values in others.items():
        _check(section, place, values, _LLM_KEYS)
        for key in (*_FITTING_WEIGHTS, _TIED):
            mine, other = section.optional(key), values.get(key)
            if mine is not None and other is not None and mine != other:
                why = "as in the original's code" if key == _TIED else "the weights fit it"
                section.readings.assume(f"{section.prefix}{key}", mine, f"{place} says {quoted(other, 40)}; {why}")


def check_vision_keys(section: Section, place: str, values: Mapping[str, Any]) -> None:
    """The same for the vision encoder's keys."""
    _check(section, place, values, _VISION_KEYS)


def _check(section: Section, place: str, values: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        mine, other = section.optional(key), values.get(key)
        if other in (None, False, {}, []) and mine in (None, False, {}, []):
            continue
        if other is not None and mine != other:
            raise CheckpointError(
                f"{section.name}: {key} is {quoted(repr(mine), 60)}, {place} says {quoted(repr(other), 60)}: keep the "
                f"one that the model was trained with, in {section.prefix.removesuffix('.')}"
            )
