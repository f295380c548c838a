"""What can be checked without training: prompts, tiling, measures, optimiser schedule, export and back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pytest

import vprm_demo
from vprm_demo.generator import Variation, scene
from vprm_demo.generator.tiling import grid_for
from vprm_demo.generator.types import Claim, Step
from vprm_export.architecture import Architecture
from vprm_export.checkpoint import Checkpoint

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("sentencepiece", reason="training needs sentencepiece")
pytest.importorskip("safetensors", reason="training needs safetensors")

from vprm_demo_training import evaluate  # noqa: E402
from vprm_demo_training.export import save_checkpoint  # noqa: E402
from vprm_demo_training.language_data import Mixture, language_chunk  # noqa: E402
from vprm_demo_training.model import DemoPrm, ModelConfig  # noqa: E402
from vprm_demo_training.optim import Optimisers  # noqa: E402
from vprm_demo_training.prompt import Tokenizer  # noqa: E402
from vprm_demo_training.tokenizer import SYSTEM_MESSAGE  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(vprm_demo.checkpoint_dir())


def whole_text_prompt(tokenizer: Tokenizer, question: str, steps: list[str], image_tokens: int) -> list[int]:
    """The prompt as the template says, each stretch of text between control tokens encoded in one go."""
    encode, im_start, im_end = tokenizer.sp.encode, tokenizer.im_start, tokenizer.im_end
    ids = [1, im_start, *encode(f"system\n{SYSTEM_MESSAGE}"), im_end, *encode("\n"), im_start, *encode("user\n")]
    ids += [tokenizer.added["<img>"], *[tokenizer.added["<IMG_CONTEXT>"]] * image_tokens, tokenizer.added["</img>"]]
    for index, step in enumerate(steps):
        if index == 0:
            ids += encode(f"\n### Question:\n{question}\n\n### Solution Process:\n{step}")
        else:
            ids += [im_end, *encode("\n"), im_start, *encode(f"user\n{step}")]
        ids += [im_end, *encode("\n"), im_start, *encode("assistant\n"), *encode("+")]
    return ids


@pytest.mark.parametrize("family", ["bars", "angles", "shapes", "tables"])
def test_prompts_equal_encoding_in_one_go(tokenizer: Tokenizer, family: str) -> None:
    rng = Random(3)
    for _ in range(15):
        made = scene(rng, Variation(shape="tile", families=(family,)))
        problem = made.problems[0]
        steps = problem.solve(rng, rng.choice((0, 1, 2))).steps
        prompt = tokenizer.prompt(problem.question, steps, 1, 64)
        assert prompt.ids == whole_text_prompt(tokenizer, problem.question, [step.text for step in steps], 64)
        assert all(prompt.ids[position + 1] == tokenizer.plus for position in prompt.scores)
        assert prompt.labels == [step.label for step in steps]


def test_targets_stand_where_they_belong(tokenizer: Tokenizer) -> None:
    step = Step(("Bar A shows ", Claim("19", "14"), "."), "read")
    prompt = tokenizer.prompt("What?", [step], 1, 64)
    (tens, true_tens), (ones, true_ones) = prompt.readings
    digit = {text: tokenizer.encode(text)[0] for text in "149"}
    assert (prompt.ids[tens + 1], true_tens) == (digit["1"], digit["1"])
    assert (prompt.ids[ones + 1], true_ones) == (digit["9"], digit["4"])
    assert prompt.verdicts == [(tens + 1, False), (ones + 1, True)]


def test_batches_hold_rows_of_one_shape(tokenizer: Tokenizer) -> None:
    for batch in language_chunk(1, 12, 2, Mixture(0.5, "mixed"), tokenizer, 8):
        rows, length = batch.ids.shape
        assert len(batch.tiles) == rows * batch.n_tiles
        image = tokenizer.added["<IMG_CONTEXT>"]
        assert (batch.ids.reshape(-1)[batch.image_slots] == image).all()
        assert (batch.ids == image).sum() == len(batch.image_slots) == rows * batch.n_tiles * 64
        newline = tokenizer.encode("\n")[0]
        assert (batch.ids.reshape(-1)[batch.score_positions] == newline).all()
        assert batch.score_positions.max() < rows * length


def test_grids_match_the_golden_tilings() -> None:
    """InternVL's golden grids are for 448 px; doubling an image's sides makes this tiling's grid for 224 px theirs."""
    golden = Path(__file__).parents[1] / "data" / "golden" / "tile_grids.json"
    if not golden.exists():
        pytest.skip("tests/data/golden/tile_grids.json is not there")
    cases = [case for case in json.loads(golden.read_text(encoding="utf-8")) if case["min_num"] == 1]
    assert cases
    for case in cases:
        if case["width"] % 2 == 0 and case["height"] % 2 == 0 and case["image_size"] == 448:
            assert list(grid_for(case["width"] // 2, case["height"] // 2, case["max_num"])) == case["grid"], case


def test_measures() -> None:
    labels, scores = np.array([1, 1, -1, -1]), np.array([0.9, 0.4, 0.4, 0.1])
    assert evaluate.auc(labels, scores) == pytest.approx(0.875)
    assert evaluate.macro_f1(labels, scores) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert math.isnan(evaluate.auc(np.array([1, 1]), np.array([0.1, 0.2])))


def test_a_checkpoint_is_written_as_the_export_reads_it(tmp_path: Path) -> None:
    model = DemoPrm(ModelConfig(vocab_size=40, vision_width=48, vision_layers=1, width=64, layers=2, ffn=96))
    save_checkpoint(model, tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.tensors.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(checkpoint.read(name), tensor.half().numpy())
    shapes = Architecture.from_config(checkpoint.config, tmp_path)
    assert (shapes.vision.hidden_size, shapes.vision.layers) == (48, 1)
    assert (shapes.llm.hidden_size, shapes.llm.layers, shapes.llm.mlp_size, shapes.llm.vocabulary) == (64, 2, 96, 40)


def test_the_learning_rate_warms_up_and_falls() -> None:
    optimisers = Optimisers([torch.nn.Linear(4, 4)], 1.0)
    rates = [optimisers.set_progress(progress, 0.1, 0.2) for progress in (0.05, 0.1, 0.5, 1.0)]
    assert rates[0] == pytest.approx(0.5) and rates[1] == pytest.approx(1.0) and rates[3] == pytest.approx(0.2)
    assert rates[1] > rates[2] > rates[3]
