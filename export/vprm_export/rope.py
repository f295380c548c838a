"""Rotary positions from llm_config, in the spellings of transformers 4 and 5.

transformers 4 writes `rope_theta` and, for scaled positions, `rope_scaling {type or rope_type, ...}`; transformers 5
writes `rope_parameters {rope_theta, rope_type, ...}` and still reads the older keys (5.23, modeling_rope_utils.py,
`RotaryEmbeddingConfigMixin.convert_rope_params_to_dict`). All that are there have to agree.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vprm_export.config_section import Section
from vprm_runtime.errors import CheckpointError, UnsupportedError, quoted

_DICTS = ("rope_parameters", "rope_scaling")
_WHOLE = "full_attention"  # the only type of layer that there is
_KIND_KEYS = ("rope_type", "type")
_SUPPORTED = ("default", "dynamic")  # dynamic NTK changes nothing up to max_position_embeddings, where prompts end


def rope_base(section: Section) -> float:
    """The base of the rotary frequencies.

    Raises CheckpointError if none is given or two differ, UnsupportedError for kinds of scaling that change scores.
    """
    bases: dict[str, float] = {}
    if section.optional("rope_theta") is not None:
        bases["rope_theta"] = section.number("rope_theta")
    _check_whole_heads(section)
    for name, values in _dictionaries(section):
        part = Section(values, f"{section.name}: {name}", section.readings, f"{section.prefix}{name}.")
        _check_kind(part)
        _check_whole_heads(part)
        if values.get("rope_theta") is not None:
            bases[f"{name}.rope_theta"] = part.number("rope_theta")
    if not bases:
        return section.number("rope_theta")  # which says that it is missing
    if len(set(bases.values())) > 1:
        listed = ", ".join(f"{key} {value:g}" for key, value in bases.items())
        raise CheckpointError(
            f"{section.name} contradicts itself ({listed}): keep the one that the model was trained with"
        )
    key, base = next(iter(bases.items()))
    section.readings.read("rotary base", base, f"config.json: {section.prefix}{key}")
    return base


def _dictionaries(section: Section) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rope dictionaries that are there; of one that is nested by layer type, its parts."""
    for key in _DICTS:
        value = section.optional(key)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{section.name}: {key} is {quoted(repr(value))}, expected an object or null")
        nested = [name for name, part in value.items() if isinstance(part, Mapping)]
        plain = {name: part for name, part in value.items() if name not in nested}
        if nested and _WHOLE not in nested:
            raise UnsupportedError(f"{section.name}: {key} is for {', '.join(map(str, nested))}, supported is {_WHOLE}")
        if plain or not nested:
            yield key, plain
        for name in nested:
            yield f"{key}.{name}", value[name]


def _check_kind(part: Section) -> None:
    kinds = [part.values[key] for key in _KIND_KEYS if part.values.get(key) is not None]
    for kind in kinds:
        if kind not in _SUPPORTED:
            raise UnsupportedError(
                f"{part.name} {quoted(repr(kind))} is not supported, only none, default and dynamic are"
            )
    if not kinds and (odd := sorted(set(part.values) - {"rope_theta", "partial_rotary_factor"})):
        raise CheckpointError(
            f"{part.name} has {odd[0]} but names no rope_type: complete it from the model's own config"
        )
    if part.values.get("mrope_section"):
        raise UnsupportedError(f"{part.name}: mrope_section is not supported, only one position for each token is")


def _check_whole_heads(section: Section) -> None:
    factor = section.optional("partial_rotary_factor")
    if factor is not None and factor != 1:
        raise UnsupportedError(
            f"{section.name}: partial_rotary_factor {quoted(repr(factor))} is not supported, only whole heads are"
        )
