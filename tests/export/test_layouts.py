"""Layouts of checkpoints: each is exported, scored, and held against transformers on the same random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vprm_benchmarks.random_checkpoint import LlmSpec, VisionSpec, make_slow, tiny_spec, write_random_checkpoint
from vprm_benchmarks.reference import ReferenceScorer
from vprm_benchmarks.reference.model import load_model
from vprm_benchmarks.reference.tokenizer import load_tokenizer
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import CheckpointError, StepScorer, UnsupportedError
from vprm_runtime.bundle.manifest import Manifest

STEPS = ["It's <ref>the red car</ref><box>[[1, 2, 3, 4]]</box>.", "So 9.", "答案：27"]
QUESTION = "<image>\nHow much?"
SYSTEM = "Judge each step. Answer + or -."


def spec_of(family: str, **vision: Any) -> Any:
    spec = tiny_spec(family)  # type: ignore[arg-type]
    return replace(spec, vision=VisionSpec(**vision))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")


def native(hub: Path, target: Path, prefixed: bool = False) -> Path:
    """The hub checkpoint as transformers itself saves it; `prefixed`: with the names of transformers 4.52 and later."""
    model = load_model(hub, torch.float32, "cpu")
    model.save_pretrained(target)
    for file in hub.iterdir():
        if "token" in file.name or file.name in ("vocab.json", "merges.txt"):
            shutil.copy(file, target)
    tokenizer = load_tokenizer(target)
    edit(target / "config.json", lambda config: config.update(image_token_id=tokenizer.token_id("<IMG_CONTEXT>")))
    if prefixed:
        renamed = {}
        for name, tensor in load_file(target / "model.safetensors").items():
            plain = name.replace("language_model.lm_head", "lm_head").replace("language_model.model", "language_model")
            renamed[plain if plain.startswith("lm_head") else f"model.{plain}"] = tensor
        save_file(renamed, target / "model.safetensors", {"format": "pt"})
    return target


def in_shards(directory: Path) -> Path:
    """The single file cut in two, with an index."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, directory / file, {"format": "pt"})
    weight_map = {name: file for file, part in files.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map, "metadata": {}}))
    (directory / "model.safetensors").unlink()
    return directory


def rope_of_transformers_5(directory: Path) -> Path:
    def change(config: dict[str, Any]) -> None:
        llm = config["llm_config"]
        scaling = llm.pop("rope_scaling") or {"type": "default"}
        kind = scaling.pop("type")
        llm["rope_parameters"] = {**scaling, "rope_type": kind, "rope_theta": llm.pop("rope_theta")}
        llm["dtype"] = llm.pop("torch_dtype")

    edit(directory / "config.json", change)
    return directory


def slow(directory: Path) -> Path:
    make_slow(directory)
    return directory


def hub_cache(directory: Path) -> Path:
    """The folder as the hub's cache has it: links into blobs, under a commit's name."""
    repository = directory.parent / "models--Somebody--PRM-8B"
    snapshot = repository / "snapshots" / ("0123456789abcdef" * 3)[:40]
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(directory.iterdir())):
        blob = repository / "blobs" / f"{number:064x}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def hub(directory: Path, spec: Any) -> Path:
    return write_random_checkpoint(directory / "hub", tiny_spec(spec) if isinstance(spec, str) else spec)


def native_of(directory: Path, spec: Any, prefixed: bool = False) -> Path:
    return native(hub(directory, spec), directory / "native", prefixed)


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "internlm2": lambda d: hub(d, "internlm2"),
    "internlm2 in shards": lambda d: in_shards(hub(d, "internlm2")),
    "internlm2 rope of 5": lambda d: rope_of_transformers_5(hub(d, "internlm2")),
    "qwen2": lambda d: hub(d, "qwen2"),
    "qwen2 slow tokenizer": lambda d: slow(hub(d, "qwen2")),
    "qwen2 rope of 5": lambda d: rope_of_transformers_5(hub(d, "qwen2")),
    "qwen2 in a hub cache": lambda d: hub_cache(slow(hub(d, "qwen2"))),
    "llama": lambda d: hub(d, "llama"),
    "llama in shards": lambda d: in_shards(hub(d, "llama")),
    "qwen2 native": lambda d: native_of(d, "qwen2"),
    "qwen2 native, prefixed": lambda d: native_of(d, "qwen2", True),
    "qwen2 native in shards": lambda d: in_shards(native_of(d, "qwen2")),
    "qwen2 native in a hub cache": lambda d: hub_cache(native_of(d, "qwen2")),
    "llama native": lambda d: native_of(d, "llama"),
    "qwen2 native, slow": lambda d: native(slow(hub(d, "qwen2")), d / "native"),
    "native, QK norm": lambda d: native_of(d, spec_of("qwen2", qk_norm=True)),
    "native, RMS norm": lambda d: native_of(d, spec_of("qwen2", norm_type="rms_norm")),
    "native, no qkv bias": lambda d: native_of(d, spec_of("qwen2", qkv_bias=False)),
    "native, layer -2": lambda d: native_of(d, spec_of("qwen2", select_layer=-2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_and_ids_are_transformers(layout: str, tmp_path: Path, make_image: Callable[..., Image.Image]) -> None:
    checkpoint = LAYOUTS[layout](tmp_path)
    manifest = export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(system_message=SYSTEM))
    scorer = StepScorer.open(tmp_path / "bundle")
    reference = ReferenceScorer.load(checkpoint, system_message=SYSTEM)
    image = make_image(200, 120)
    expected = reference.score([image], QUESTION, [STEPS, STEPS[:1]])
    result = scorer.score(image, QUESTION, [STEPS, STEPS[:1]])
    for ours, theirs in zip(result, expected, strict=True):
        assert [step.score for step in ours.steps] == pytest.approx(theirs.scores.tolist(), abs=1e-5)
    ids = scorer.prepare(QUESTION, result.tiles, STEPS).ids
    assert list(ids) == expected[0].token_ids.tolist()
    assert {reading.what for reading in manifest.provenance.readings} >= {"weights", "rotary base", "tokenizer", "head"}


def test_a_bundle_is_named_after_the_model_not_its_commit(tmp_path: Path) -> None:
    snapshot = hub_cache(hub(tmp_path, "llama"))
    assert export_bundle(snapshot, tmp_path / "one").model.name == "Somebody/PRM-8B"
    assert export_bundle(snapshot, tmp_path / "two").provenance.checkpoint == "Somebody/PRM-8B"
    copied = shutil.copytree(snapshot, tmp_path / "VisualPRM-8B" / snapshot.name)
    assert export_bundle(copied, tmp_path / "three").model.name == "VisualPRM-8B"
    (tmp_path / "link").symlink_to(snapshot)
    assert export_bundle(tmp_path / "link", tmp_path / "four").model.name == "Somebody/PRM-8B"


def assumed(manifest: Manifest) -> set[str]:
    return {reading.what for reading in manifest.provenance.readings if reading.assumed}


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize("prefixed", [False, True])
def test_native_and_hub_layout_of_the_same_weights(
    tmp_path: Path, prefixed: bool, make_image: Callable[..., Image.Image]
) -> None:
    """The same scores to the bit; what the native layout has no key for is told."""
    hub = write_random_checkpoint(tmp_path / "hub", tiny_spec("qwen2"))
    other = native(hub, tmp_path / "native", prefixed)
    scores = []
    for checkpoint in (hub, other):
        manifest = export_bundle(checkpoint, tmp_path / f"b-{checkpoint.name}", ExportOptions(system_message=SYSTEM))
        result = StepScorer.open(tmp_path / f"b-{checkpoint.name}").score(make_image(200, 120), QUESTION, [STEPS])
        scores.append([step.score for step in result[0].steps])
    assert scores[0] == scores[1]
    assert assumed(manifest) == {"template", "min_dynamic_patch", "max_dynamic_patch"}
    assert assumed(export_bundle(other, tmp_path / "default")) >= {"system message"}


def test_tiling_of_the_native_layout_comes_from_its_processor(tmp_path: Path) -> None:
    hub = write_random_checkpoint(tmp_path / "hub", tiny_spec("qwen2"))
    directory = native(hub, tmp_path / "native")
    processor = {
        "crop_to_patches": False, "min_patches": 2, "max_patches": 6, "size": {"height": 56, "width": 56}, **IMAGENET,
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    manifest = export_bundle(directory, tmp_path / "bundle")
    assert (manifest.tiling.min_tiles, manifest.tiling.max_tiles, manifest.tiling.tile_size_px) == (2, 6, 56)
    assert assumed(manifest) == {"template", "system message"}
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps({"image_processor": {**processor, "max_patches": 4}}))
    assert export_bundle(directory, tmp_path / "bundle 2").tiling.max_tiles == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"do_normalize": False}, "do_normalize false"),
        ({"do_rescale": False}, "do_rescale false"),
        ({"do_resize": False}, "do_resize false"),
        ({"do_convert_rgb": False}, "do_convert_rgb false"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"image_mean": None}, "image_mean null .* CLIP's"),
        ({"image_std": None}, "image_std null .* CLIP's"),
        ({"image_std": 0.5}, "image_std 0.5"),
        ({"resample": 2}, "resample"),
        ({"do_rescale": 0}, "do_rescale 0"),
        ({"do_pad": True}, "do_pad"),
        ({"crop_size": {"height": 56, "width": 56}}, "crop_size"),
        ({"size": {"shortest_edge": 56}}, "shortest_edge"),
        ({"size": {"longest_edge": 56}}, "longest_edge"),
        ({"size": {"height": 56, "width": 28}}, "only height and width of a square"),
        ({"size": {"height": 56, "width": 56, "shortest_edge": 28}}, "shortest_edge"),
        ({"size": [56, 56]}, "size: height is"),
        ({"size": "56"}, "size: height is '56'"),
        ({"default_to_square": False}, "default_to_square false"),
        ({"use_thumbnail": False}, "use_thumbnail false"),
        ({"processor_class": "AutoProcessor"}, "processor_class AutoProcessor"),
        ({"image_processor_type": "GotOcr2ImageProcessorOfMine"}, "GotOcr2ImageProcessorOfMine"),
        ({"max_patches": 300}, "max_dynamic_patch is 300"),
        ({"min_patches": 7}, "min_dynamic_patch is 7"),
        ({"min_patches": 1.5}, "min_patches is 1.5"),
        ({"max_patches": 4}, "max_patches is 6 in preprocessor_config.json and 4 in processor_config.json"),
    ],
)
def test_an_image_processor_that_makes_other_pixels(
    random_checkpoint: Callable[[str], Path], tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    directory = native(random_checkpoint("qwen2"), tmp_path / "native")
    own = {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "rescale_factor": 1 / 255,
        "resample": 3, "size": 56, "image_processor_type": "GotOcr2ImageProcessorFast", "max_patches": 6,
        "processor_class": "InternVLProcessor", "crop_size": None, **IMAGENET,
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(own))
    manifest = export_bundle(directory, tmp_path / "own")
    assert (manifest.tiling.tile_size_px, manifest.tiling.max_tiles) == (56, 6)
    if values == {"max_patches": 4}:
        (directory / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    else:
        (directory / "preprocessor_config.json").write_text(json.dumps({**own, **values}))
    with pytest.raises((CheckpointError, UnsupportedError), match=words):
        export_bundle(directory, tmp_path / "bundle")


def test_a_hub_layouts_image_processor_that_says_otherwise_is_told(
    random_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The layout's own code does not read it."""
    directory = Path(shutil.copytree(random_checkpoint("qwen2"), tmp_path / "hub"))
    written = {"crop_size": 448, "do_center_crop": True, **IMAGENET}
    (directory / "preprocessor_config.json").write_text(json.dumps(written))
    assert not {"image_mean", "image_std"} & assumed(export_bundle(directory, tmp_path / "same"))
    (directory / "preprocessor_config.json").write_text(json.dumps({**written, "image_mean": [0.5, 0.5, 0.5]}))
    assert "image_mean" in assumed(export_bundle(directory, tmp_path / "other"))


@pytest.mark.parametrize(
    "values",
    [{"use_thumbnail": False}, {"dynamic_image_size": False}, {"max_dynamic_patch": 6}, {"min_dynamic_patch": 2},
     {"force_image_size": 28}],
)  # fmt: skip
def test_tiling_under_the_hub_layouts_keys_must_agree(
    random_checkpoint: Callable[[str], Path], tmp_path: Path, values: dict[str, Any]
) -> None:
    """transformers reads the image processor's file alone; the original's code these keys."""
    directory = native(random_checkpoint("qwen2"), tmp_path / "native")
    config = json.loads((directory / "config.json").read_text("utf-8"))
    (directory / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(CheckpointError, match=f"{next(iter(values))} is .* image processor"):
        export_bundle(directory, tmp_path / "bundle")
    agreeing = {"use_thumbnail": True, "dynamic_image_size": True, "max_dynamic_patch": 12, "min_dynamic_patch": 1}
    (directory / "config.json").write_text(json.dumps({**config, **agreeing}))
    assert export_bundle(directory, tmp_path / "bundle").tiling.max_tiles == 12
    (directory / "processor_config.json").write_text(json.dumps({"image_processor": "GotOcr2ImageProcessor"}))
    with pytest.raises(CheckpointError, match="image_processor is str"):
        export_bundle(directory, tmp_path / "other")


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (None, {"projector_hidden_act": "relu"}, "projector_hidden_act"),
        (None, {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
        (None, {"vision_feature_layer": [-1, -2]}, "select_layer|vision_feature_layer"),
        (None, {"image_token_id": 5}, "image_token_id is 5"),
        (None, {"architectures": ["LlavaForConditionalGeneration"]}, "architectures"),
        ("vision_config", {"use_mean_pooling": False}, "use_mean_pooling"),
        ("vision_config", {"use_mask_token": True}, "use_mask_token"),
        ("vision_config", {"use_absolute_position_embeddings": False}, "use_absolute_position_embeddings"),
        ("vision_config", {"image_size": [56, 112]}, "image_size"),
        ("vision_config", {"hidden_act": "quick_gelu"}, "hidden_act"),
        ("text_config", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, "yarn"),
        ("text_config", {"rope_parameters": None}, "rope_theta"),
        ("text_config", {"use_sliding_window": True}, "use_sliding_window"),
        ("text_config", {"model_type": "qwen3"}, "qwen3"),
        ("text_config", {"tie_word_embeddings": True}, "transformers 4 drops"),
        (None, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling is .* its top says"),
        (None, {"rms_norm_eps": 0.1}, "rms_norm_eps is .* its top says"),
        (None, {"llm_config": {"rope_theta": 5.0}}, "rope_theta is .* llm_config says"),
        (None, {"patch_size": 16}, "patch_size is .* its top says"),
    ],
)
def test_what_the_native_layout_may_have_and_is_not_supported(
    tmp_path: Path, section: str | None, values: dict[str, Any], words: str
) -> None:
    directory = native(write_random_checkpoint(tmp_path / "hub", tiny_spec("qwen2")), tmp_path / "native")
    edit(directory / "config.json", lambda config: (config if section is None else config[section]).update(values))
    with pytest.raises((CheckpointError, UnsupportedError), match=words):
        export_bundle(directory, tmp_path / "bundle")


@pytest.mark.parametrize("top", [True, False, None])
def test_a_native_head_by_what_is_stored(tmp_path: Path, top: bool | None) -> None:
    """transformers' top level is tied by default, whatever the text model is: the stored head decides."""
    directory = native(write_random_checkpoint(tmp_path / "hub", tiny_spec("qwen2")), tmp_path / "native")

    def change(config: dict[str, Any]) -> None:
        config["text_config"].pop("tie_word_embeddings")
        config.pop("tie_word_embeddings")
        if top is not None:
            config["tie_word_embeddings"] = top

    edit(directory / "config.json", change)
    heads = [r.value for r in export_bundle(directory, tmp_path / "stored").provenance.readings if r.what == "head"]
    assert heads == ["language_model.lm_head.weight"]
    tensors = load_file(directory / "model.safetensors")
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    if top is False:
        with pytest.raises(CheckpointError, match="has no head"):
            export_bundle(directory, tmp_path / "missing")
        return
    export_bundle(directory, tmp_path / "tied", ExportOptions(system_message=SYSTEM))
    reference = ReferenceScorer.load(directory, system_message=SYSTEM).score([], "Q?", [["One."]])[0]
    score = StepScorer.open(tmp_path / "tied").score(None, "Q?", [["One."]])[0].score
    assert score == pytest.approx(reference.mean, abs=1e-5)


def test_a_native_tied_model(tmp_path: Path) -> None:
    spec = replace(tiny_spec("qwen2"), llm=LlmSpec(family="qwen2", tie_word_embeddings=True))
    directory = native(write_random_checkpoint(tmp_path / "hub", spec), tmp_path / "native")
    export_bundle(directory, tmp_path / "bundle", ExportOptions(system_message=SYSTEM))
    reference = ReferenceScorer.load(directory, system_message=SYSTEM).score([], "Q?", [["One."]])[0]
    score = StepScorer.open(tmp_path / "bundle").score(None, "Q?", [["One."]])[0].score
    assert score == pytest.approx(reference.mean, abs=1e-5)
