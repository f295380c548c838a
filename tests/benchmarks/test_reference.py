"""The reference agrees with itself: three ways to score give one answer, and its parts match the published facts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vprm_benchmarks.parity.cases import ParityCase, built_in_cases, draw_image
from vprm_benchmarks.random_checkpoint import LlmFamily, tiny_spec, write_random_checkpoint
from vprm_benchmarks.reference import (
    MM_PRM,
    VISUALPRM,
    ReferenceScorer,
    conversation_text,
    load_tiles,
    split_steps,
    tile_grid,
)
from vprm_benchmarks.reference.prompt import default_system_message, find_score_positions
from vprm_benchmarks.reference.tokenizer import load_tokenizer
from vprm_benchmarks.reference.weights import convert_tensor

TEST_DATA = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[3] / "shared" / "data"
HUB_TOKENIZER = Path(
    os.environ.get("VPRM_INTERNLM2_TOKENIZER", SHARED / "internlm2_tokenizer")
)  # not in the repository


def _case(name: str) -> ParityCase:
    return next(case for case in built_in_cases(56) if case.name == name)


@pytest.fixture(scope="module", params=["internlm2", "qwen2", "llama"])
def scorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReferenceScorer:
    family: LlmFamily = request.param
    directory = write_random_checkpoint(tmp_path_factory.mktemp("reference") / family, tiny_spec(family))
    return ReferenceScorer.load(directory)


@pytest.mark.parametrize("name", ["wide-2x1", "two-images-in-place", "text-only", "empty-step"])
def test_three_methods_agree(scorer: ReferenceScorer, name: str) -> None:
    case = _case(name)
    candidates = [split_steps(response) for response in case.responses]
    one_pass = scorer.score(case.images, case.question, candidates)
    for method in ("per-step", "prefix-reuse"):
        other = scorer.score(case.images, case.question, candidates, method)
        for left, right in zip(one_pass, other, strict=True):
            np.testing.assert_array_equal(left.token_ids, right.token_ids)
            np.testing.assert_array_equal(left.score_positions, right.score_positions)
            np.testing.assert_allclose(left.scores, right.scores, rtol=0, atol=2e-6)
    assert [len(result.scores) for result in one_pass] == [len(steps) for steps in candidates]


def test_scores_spread_and_depend_on_image_question_and_step(scorer: ReferenceScorer) -> None:
    scores = []
    for seed in range(6):
        image = draw_image(90, 60, seed)
        steps = [f"{seed} + {number} = {seed + number}." for number in range(8)]
        scores.append(scorer.score([image], f"What is {seed}?", [steps])[0].scores)
    spread = np.stack(scores)  # [images, steps]
    assert spread.std() > 0.1
    assert np.percentile(spread, 95) - np.percentile(spread, 5) > 0.4
    assert (spread.std(axis=0) > 0.01).all()
    other = scorer.score(
        [draw_image(90, 60, 99)], "What is 5?", [[f"5 + {number} = {5 + number}." for number in range(8)]]
    )
    assert np.abs(other[0].scores - spread[5]).max() > 0.01


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path / "checkpoint", tiny_spec())
    case = _case("one-tile")
    candidates = [split_steps(response) for response in case.responses]
    exact = ReferenceScorer.load(directory).score(case.images, case.question, candidates)
    rough = ReferenceScorer.load(directory, dtype=torch.bfloat16).score(case.images, case.question, candidates)
    for left, right in zip(exact, rough, strict=True):
        assert 0 < np.abs(left.scores - right.scores).max() < 0.1


def test_select_layer_reads_an_inner_layer(tmp_path: Path) -> None:
    spec = tiny_spec()
    spec = replace(spec, vision=replace(spec.vision, layers=3, select_layer=-2))
    reference = ReferenceScorer.load(write_random_checkpoint(tmp_path / "checkpoint", spec))
    encoded = reference.encode_images([draw_image(56, 56, 0)])
    assert encoded.pixel_values is not None and encoded.embeddings is not None
    tower = reference.model.model.vision_tower
    with torch.inference_mode():
        hidden = tower.embeddings(encoded.pixel_values)
        for layer in tower.encoder.layer[:-1]:
            hidden = layer(hidden)
        patches = hidden[:, 1:].reshape(1, 4, 4, -1)
        shuffled = reference.model.model.pixel_shuffle(patches, 0.5).reshape(1, 4, -1)
        expected = reference.model.model.multi_modal_projector(shuffled)[0]
    torch.testing.assert_close(encoded.embeddings, expected, rtol=0, atol=1e-6)


def test_tile_grids_match_the_golden_ones() -> None:
    for row in json.loads((TEST_DATA / "golden" / "tile_grids.json").read_text()):
        grid = tile_grid(row["width"], row["height"], row["image_size"], row["min_num"], row["max_num"])
        assert list(grid) == row["grid"], row


def test_tiles_are_rows_of_the_image_and_a_thumbnail() -> None:
    tiles = load_tiles(draw_image(200, 100, 0), 56, 1, 12)
    assert len(tiles) == 9  # 4 x 2 and the thumbnail
    assert {tile.size for tile in tiles} == {(56, 56)}
    assert len(load_tiles(draw_image(50, 50, 0), 56, 1, 12)) == 1


def test_steps_are_split_and_grouped() -> None:
    assert split_steps("a\n\nb\n\n\nc") == ["a", "b", "\nc"]
    assert split_steps(["a", "", "b"]) == ["a", "", "b"]
    assert split_steps("1\n\n2\n\n3\n\n4\n\n5", max_steps=3) == ["1\n\n2", "3\n\n4", "5"]
    assert split_steps(["1", "2"], max_steps=12) == ["1", "2"]


def test_conversation_of_visualprm() -> None:
    text = conversation_text(VISUALPRM, "S", "Q?", ["one", "", "two"], ["<img>x</img>"])
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\n### Question:\n<img>x</img>\nQ?\n\n### Solution Process:\none<|im_end|>\n"
        "<|im_start|>assistant\n+<|im_end|>\n"
        "<|im_start|>user\n<|im_start|>assistant\n+<|im_end|>\n"
        "<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n+<|im_end|>\n"
    )


def test_conversation_of_mm_prm() -> None:
    text = conversation_text(MM_PRM, "S", "Q?", ["one", "two"], ["<img>x</img>"])
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<|im_start|>assistant\n"
        "<img>x</img>\nQuestion: Q?\nProcess: one<prm>\n\ntwo<prm><|im_end|>\n"
    )


def test_packed_projection_is_taken_apart_by_key_value_head() -> None:
    rows = torch.arange(8).unsqueeze(1)
    name = "language_model.model.layers.0.attention.wqkv.weight"
    parts = convert_tensor(name, rows, heads=4, kv_heads=2)  # groups [q0 q1 k0 v0], [q2 q3 k1 v1]
    layer = "model.language_model.layers.0.self_attn"
    assert parts[f"{layer}.q_proj.weight"].flatten().tolist() == [0, 1, 4, 5]
    assert parts[f"{layer}.k_proj.weight"].flatten().tolist() == [2, 6]
    assert parts[f"{layer}.v_proj.weight"].flatten().tolist() == [3, 7]


def test_unknown_tensors_are_refused_by_name() -> None:
    with pytest.raises(KeyError, match="mlp9"):
        convert_tensor("mlp9.weight", torch.zeros(1), 1, 1)


def test_prompts_are_the_golden_ones() -> None:
    golden = json.loads((TEST_DATA / "golden" / "internlm2_tokens.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(HUB_TOKENIZER) if HUB_TOKENIZER.is_dir() else None
    for row in golden["prompts"]:
        if row["prompt"] is None:  # 3,328 image tokens: only its counts are kept
            continue
        system = row["prompt"].split("<|im_start|>system\n")[1].split("<|im_end|>")[0]
        if row["system"] == "default_internvl2_5":
            assert system == default_system_message()
        contexts = ["<IMG_CONTEXT>" * (row["num_image_token"] * tiles) for tiles in row["num_patches_list"]]
        images = [f"<img>{context}</img>" for context in contexts]
        text = conversation_text(VISUALPRM, system, row["question"], row["steps"], images)
        assert text == row["prompt"], row["name"]
        if tokenizer is not None:
            ids = tokenizer.encode(text)
            assert ids == row["input_ids"], row["name"]
            assert find_score_positions(VISUALPRM, ids, tokenizer) == row["score_positions"], row["name"]
    if tokenizer is None:
        pytest.skip(f"texts agree; token ids not compared: {HUB_TOKENIZER} is not part of this repository")
