"""Keys of config.json that decide scores: absent, renamed, contradicted, spelled as transformers 4 and 5 do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint
from vprm_benchmarks.reference import ReferenceScorer
from vprm_export import export_bundle
from vprm_export.architecture import Architecture
from vprm_export.readings import Readings
from vprm_runtime import CheckpointError, StepScorer, UnsupportedError

CONFIG = json.loads((Path(__file__).parent.parent / "data/visualprm_8b/config.json").read_text())
REQUIRED = {
    None: (
        *("select_layer", "ps_version", "template", "use_thumbnail", "dynamic_image_size"),
        *("min_dynamic_patch", "max_dynamic_patch", "model_type", "architectures", "llm_config", "vision_config"),
    ),
    "llm_config": (
        *("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act"),
        *("rms_norm_eps", "rope_theta", "max_position_embeddings", "vocab_size"),
    ),
    "vision_config": (
        *("hidden_act", "image_size", "patch_size", "num_hidden_layers", "hidden_size", "num_attention_heads"),
        *("intermediate_size", "layer_norm_eps"),
    ),
}
ASSUMED = {  # a wrong default contradicts the weights' names or shapes
    None: ("force_image_size", "downsample_ratio"),
    "llm_config": ("num_key_value_heads", "tie_word_embeddings"),
    "vision_config": ("num_channels", "norm_type", "qk_normalization", "qkv_bias"),
}
ROPE = {"rope_theta": 1_000_000.0, "rope_type": "default"}


def edited(section: str | None = None, remove: tuple[str, ...] = (), **values: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    part = config if section is None else config[section]
    for key in remove:
        del part[key]
    part.update(values)
    return config


def read(config: dict[str, Any]) -> tuple[Architecture, Readings]:
    readings = Readings()
    return Architecture.from_config(config, Path("checkpoint"), readings), readings


@pytest.mark.parametrize(("section", "key"), [(s, key) for s, keys in REQUIRED.items() for key in keys])
def test_a_key_that_decides_scores_is_required(section: str | None, key: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError), match=key):
        read(edited(section, (key,)))
    with pytest.raises((CheckpointError, UnsupportedError), match=key) as caught:
        read(edited(section, **{key: None}))
    assert f"it has '{key}'" not in str(caught.value)


@pytest.mark.parametrize(("section", "key"), [(s, key) for s, keys in ASSUMED.items() for key in keys])
def test_an_assumed_key_is_listed(section: str | None, key: str) -> None:
    config = edited(section)
    (config if section is None else config[section]).pop(key, None)
    _, readings = read(config)
    assumed = {reading.what for reading in readings.all if reading.assumed}
    assert assumed == {key if section is None else f"{section}.{key}"}
    assert not [reading for reading in read(CONFIG)[1].all if reading.assumed]


@pytest.mark.parametrize(
    ("section", "key", "renamed"),
    [("llm_config", "rope_theta", "rope_thetas"), ("llm_config", "rms_norm_eps", "norm_eps"),
     (None, "use_thumbnail", "thumbnail"), ("vision_config", "layer_norm_eps", "layernorm_eps")],
)  # fmt: skip
def test_a_renamed_key_is_found_out(section: str | None, key: str, renamed: str) -> None:
    value = (CONFIG if section is None else CONFIG[section])[key]
    with pytest.raises(CheckpointError, match=f"{key}' .it has '{renamed}'"):
        read(edited(section, (key,), **{renamed: value}))


@pytest.mark.parametrize(
    ("remove", "values"),
    [
        ((), {"rope_parameters": ROPE}),
        (("rope_theta", "rope_scaling"), {"rope_parameters": ROPE}),
        (("rope_theta",), {"rope_scaling": {"type": "dynamic", "factor": 2.0, "rope_theta": 1000000}}),
        (("rope_theta", "rope_scaling"), {"rope_parameters": {"full_attention": ROPE}}),
        (("rope_scaling",), {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
        (("rope_theta",), {"rope_parameters": {"rope_theta": 1000000, "partial_rotary_factor": 1.0}}),
        (("rope_theta", "rope_scaling"), {"rope_parameters": {"full_attention": ROPE, "rope_theta": 1000000}}),
        (("rope_theta", "rope_scaling"), {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}}),
    ],
)
def test_spellings_of_the_rotary_base(remove: tuple[str, ...], values: dict[str, Any]) -> None:
    architecture, readings = read(edited("llm_config", remove, **values))
    assert architecture.llm.rope_base == 1_000_000
    assert [r.value for r in readings.all if r.what == "rotary base"] == ["1000000"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rope_parameters": {**ROPE, "rope_theta": 10000.0}}, "rope_theta 1e.06, rope_parameters.rope_theta 10000"),
        ({"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0}}, "rope_parameters 'yarn'"),
        ({"rope_parameters": {**ROPE, "rope_type": "llama3"}}, "rope_parameters 'llama3'"),
        ({"rope_parameters": {"full_attention": {**ROPE, "rope_type": "linear"}}}, "full_attention 'linear'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling 'longrope'"),
        ({"rope_parameters": {"full_attention": ROPE, "rope_theta": 5e5}}, "contradicts itself"),
        ({"rope_parameters": {"full_attention": ROPE, "rope_type": "yarn"}}, "rope_parameters 'yarn'"),
        (
            {"rope_parameters": {"full_attention": ROPE, "sliding_attention": {**ROPE, "rope_theta": 1e4}}},
            "contradicts",
        ),
        ({"rope_parameters": {"sliding_attention": ROPE}}, "is for sliding_attention, supported is full_attention"),
        ({"rope_parameters": {"layer_1": ROPE, "layer_2": ROPE}}, "is for layer_1, layer_2"),
        ({"rope_scaling": {"type": "dynamic", "rope_type": "yarn", "factor": 2.0}}, "rope_scaling 'yarn'"),
        ({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}}, "mrope_section"),
        ({"rope_scaling": {"factor": 4.0}}, "names no rope_type"),
        ({"rope_scaling": "yarn"}, "expected an object"),
        ({"rope_theta": "1000000"}, "expected a number"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {**ROPE, "partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "Qwen2ForCausalLM"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"bias": True}, "bias"),
        ({"num_key_value_heads": 5}, "no multiple"),
        ({"num_attention_heads": 33}, "no multiple"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps"),
    ],
)
def test_what_contradicts_itself_or_is_not_supported_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedError), match=words):
        read(edited("llm_config", **values))


@pytest.mark.parametrize(
    "values", [{"pad2square": True}, {"system_message": ["a"]}, {"quantization_config": {"bits": 4}}]
)
def test_top_level_keys_that_are_not_supported(values: dict[str, Any]) -> None:
    with pytest.raises((CheckpointError, UnsupportedError), match=next(iter(values))):
        read(edited(**values))


YARN = {"type": "yarn", "factor": 4.0}


@pytest.mark.parametrize("place", [None, "text_config"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_scaling", YARN), ("rope_theta", 10000.0), ("rope_parameters", ROPE), ("max_position_embeddings", 4096),
        ("rms_norm_eps", 1e-6), ("hidden_act", "gelu"), ("num_attention_heads", 16), ("num_key_value_heads", 4),
        ("head_dim", 64), ("layer_types", ["sliding_attention"]), ("use_sliding_window", True),
        ("attention_bias", True),
    ],
)  # fmt: skip
def test_a_second_place_that_says_something_else_is_refused(place: str | None, key: str, value: Any) -> None:
    config = edited(**({key: value} if place is None else {place: {key: value}}))
    with pytest.raises(CheckpointError, match=rf"llm_config: {key} is .*, {place or 'its top'} says .*keep the one"):
        read(config)
    same = CONFIG["llm_config"].get(key)
    if same is not None:
        assert read(edited(**({key: same} if place is None else {place: {key: same}})))[0] == read(CONFIG)[0]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("vocab_size", 1000, "the weights fit it"), ("hidden_size", 1024, "the weights fit it"),
        ("num_hidden_layers", 24, "the weights fit it"), ("intermediate_size", 8, "the weights fit it"),
        ("tie_word_embeddings", True, "as in the original's code"),
    ],
)  # fmt: skip
def test_a_second_place_that_the_weights_settle_is_told(key: str, value: Any, why: str) -> None:
    architecture, readings = read(edited(**{key: value}))
    assert architecture == read(CONFIG)[0]
    (told,) = [reading for reading in readings.all if reading.assumed]
    assert (told.what, told.value) == (f"llm_config.{key}", str(CONFIG["llm_config"][key]))
    assert f"its top says {value}; {why}" in told.source


@pytest.mark.parametrize(
    ("key", "value"), [("patch_size", 16), ("norm_type", "rms_norm"), ("layer_norm_eps", 1e-5), ("image_size", 224)]
)
def test_the_vision_encoders_keys_at_the_top(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"vision_config: {key} is .*, its top says {value!r}"):
        read(edited(**{key: value}))


def rope_in_new_spelling(llm: dict[str, Any]) -> None:
    llm["rope_parameters"] = {"rope_theta": llm.pop("rope_theta"), "rope_type": "default"}
    del llm["rope_scaling"]


def test_scores_under_the_new_spelling_are_the_references(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path / "checkpoint", tiny_spec("qwen2"))
    old = score(directory, tmp_path / "old")
    config = json.loads((directory / "config.json").read_text())
    rope_in_new_spelling(config["llm_config"])
    (directory / "config.json").write_text(json.dumps(config))
    reference = ReferenceScorer.load(directory).score([], "How many?", [["One.", "Two."]])[0].scores
    assert score(directory, tmp_path / "new") == old == pytest.approx(reference.tolist(), abs=1e-5)


def score(checkpoint: Path, bundle: Path) -> list[float]:
    export_bundle(checkpoint, bundle)
    result = StepScorer.open(bundle).score([], "How many?", [["One.", "Two."]])
    return [step.score for step in result.candidates[0].steps]


HEADS = {
    "internlm2": ("tok_embeddings", "output"),
    "qwen2": ("embed_tokens", "lm_head"),
    "llama": ("embed_tokens", "lm_head"),
}


@pytest.mark.parametrize("family", HEADS)
def test_a_tied_head_and_a_stored_one(random_checkpoint: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    directory = tmp_path / "checkpoint"
    write_random_checkpoint(directory, tiny_spec(family))  # type: ignore[arg-type]
    config = json.loads((directory / "config.json").read_text())
    config["llm_config"]["tie_word_embeddings"] = True
    (directory / "config.json").write_text(json.dumps(config))
    embedding, head = (f"language_model.{'model.' * (i == 0)}{name}.weight" for i, name in enumerate(HEADS[family]))
    with pytest.raises(CheckpointError, match=r"transformers 4 drops .* transformers 5 keeps") as caught:
        export_bundle(directory, tmp_path / "refused")
    assert head in str(caught.value)
    tensors = load_file(directory / "model.safetensors")
    tensors[head] = tensors[embedding].copy()
    save_file(tensors, directory / "model.safetensors")
    manifest = export_bundle(directory, tmp_path / "equal")
    assert [r.value for r in manifest.provenance.readings if r.what == "head"] == ["the embedding table"]
    tensors[head] = np.ascontiguousarray(tensors[head][:-1])
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="differs from"):
        export_bundle(directory, tmp_path / "shorter")
    del tensors[head]
    save_file(tensors, directory / "model.safetensors")
    export_bundle(directory, tmp_path / "absent")
    config["llm_config"]["tie_word_embeddings"] = False
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"set llm_config\.tie_word_embeddings to true"):
        export_bundle(directory, tmp_path / "missing")
