"""Scores of libvprm equal the Python package's, in every family and precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.cpp.conftest import ORT_LIBRARY, Runner, RunnerError

from vprm_benchmarks.parity.cases import built_in_cases
from vprm_benchmarks.random_checkpoint import LlmFamily
from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import ScoreResult, StepScorer
from vprm_runtime.execution.aggregate import AGGREGATES
from vprm_runtime.images.load import load_image

TOLERANCE = 1e-12  # the same engine and order of work; softmax and means are the C library's and NumPy's own
AsImage = Callable[..., dict[str, Any]]

RESPONSES: list[str | list[str]] = [
    "There are 3 bars.\n\nTwo of them are red.\n\nSo the answer is 2.",
    ["A step", "", "another step with <ref>markup</ref>"],
    "<|im_end|>\n<|im_start|>assistant\n+",
    [],
    "word " * 400,
    ["Zwölf 中文 🙂 e\u0301", "\n", " "],
    "There are 3 bars.\n\nTwo of them are red.\n\nSo the answer is 2.",
]


def pixels(width_px: int, height_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise."""
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), np.uint8)


def assert_same(found: dict[str, Any], expected: ScoreResult) -> None:
    """Equal tiles, texts, errors and reasons; scores within TOLERANCE."""
    assert found["tiles"] == list(expected.tiles)
    assert found["best"] == expected.best
    assert len(found["candidates"]) == len(expected.candidates)
    for mine, theirs in zip(found["candidates"], expected.candidates, strict=True):
        assert mine["error"] == theirs.error
        if theirs.score is None:
            assert mine["score"] is None and mine["code"] == theirs.code
            continue
        assert [step["text"] for step in mine["steps"]] == [step.text for step in theirs.steps]
        assert mine["score"] == pytest.approx(theirs.score, abs=TOLERANCE, rel=0)
        np.testing.assert_allclose(
            [step["score"] for step in mine["steps"]], theirs.step_scores, atol=TOLERANCE, rtol=0
        )


@pytest.fixture(scope="module")
def family_bundle(
    random_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Bundles of random weights by family and score rule; each is made once."""
    made: dict[tuple[str, str], Path] = {}

    def get(family: str, rule: str) -> Path:
        if (family, rule) not in made:
            made[family, rule] = tmp_path_factory.mktemp("bundle") / f"{family}-{rule}"
            export_bundle(random_checkpoint(family), made[family, rule], ExportOptions(score_rule=rule))
        return made[family, rule]

    return get


@pytest.mark.parametrize("rule", ["visualprm", "mm-prm"])
@pytest.mark.parametrize("family", ["internlm2", "qwen2", "llama"])
def test_families_and_score_rules(
    runner: Runner, family_bundle: Callable[[str, str], Path], as_image: AsImage, family: LlmFamily, rule: str
) -> None:
    bundle = family_bundle(family, rule)
    for block in (512, 37):
        scorer = StepScorer.open(bundle, "cpu", threads=1, max_block_tokens=block)
        runner("open", bundle=str(bundle), max_block_tokens=block)
        for images, question in (
            ([pixels(90, 60)], "How many bars?"),
            ([pixels(60, 170, 1), pixels(200, 100, 2)], "Left: <image> right: <image> Which?"),
            ([], "What is 1 + 1?"),
        ):
            found = runner(
                "score", question=question, images=[as_image(image, 5) for image in images], responses=RESPONSES
            )
            assert_same(found, scorer.score(images, question, RESPONSES))


@pytest.mark.parametrize("family", ["demo", "internlm2", "qwen2", "llama"])
def test_every_case_of_parity(
    runner: Runner, demo_bundle: Path, family_bundle: Callable[[str, str], Path], as_image: AsImage, family: str
) -> None:
    bundle = demo_bundle if family == "demo" else family_bundle(family, "visualprm")
    scorer = StepScorer.open(bundle, "cpu", threads=1)
    runner("open", bundle=str(bundle))
    for case in built_in_cases(scorer.manifest.tiling.tile_size_px):
        images = [np.asarray(load_image(image)) for image in case.images]
        found = runner(
            "score", question=case.question, images=[as_image(image) for image in images], responses=case.responses,
            max_steps=case.max_steps or 0, max_tiles=case.max_tiles or 0,
        )  # fmt: skip
        expected = scorer.score(
            list(case.images), case.question, case.responses, max_steps=case.max_steps, max_tiles=case.max_tiles
        )
        assert_same(found, expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w4", "cpu-native", "bf16", "mixed", "fp16-after-fp32"])
def test_precisions(runner: Runner, as_image: AsImage, tmp_path: Path, precision: str) -> None:
    options = {
        "cpu-native": ExportOptions("int8", target="cpu-native"),
        "bf16": ExportOptions("bf16", target="cpu-native"),
        "mixed": ExportOptions("int8", vision_precision="fp16"),
        "fp16-after-fp32": ExportOptions("fp16", vision_precision="fp32"),
    }.get(precision) or ExportOptions(precision)  # type: ignore[arg-type]
    bundle = tmp_path / "bundle"
    export_bundle(checkpoint_dir(), bundle, options)
    if options.target == "cpu-native":
        try:
            runner("open", bundle=str(bundle))
        except RunnerError as error:
            pytest.skip(str(error))
    scorer = StepScorer.open(bundle, "cpu", threads=1)
    assert runner("open", bundle=str(bundle)) == scorer.engine.description
    image = pixels(640, 480)
    found = runner("score", question="How many?", images=[as_image(image)], responses=RESPONSES)
    assert_same(found, scorer.score(image, "How many?", RESPONSES))


def test_options(runner: Runner, demo_bundle: Path, demo_scorer: StepScorer, as_image: AsImage) -> None:
    runner("open", bundle=str(demo_bundle))
    image = pixels(700, 500)
    given = {"question": "How many?", "images": [as_image(image)], "responses": RESPONSES}
    for number, aggregate in enumerate(AGGREGATES):
        for max_steps, max_tiles in ((2, 2), (1, 1), (None, 12)):
            found = runner("score", **given, aggregate=number, max_steps=max_steps or 0, max_tiles=max_tiles)
            expected = demo_scorer.score(
                image, "How many?", RESPONSES, max_steps=max_steps, max_tiles=max_tiles, aggregate=aggregate
            )
            assert_same(found, expected)


def test_ready_tiles(runner: Runner, demo_bundle: Path, as_image: AsImage, tmp_path: Path) -> None:
    runner("open", bundle=str(demo_bundle))
    tiles = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    tiles.tofile(tmp_path / "tiles")
    ready = {"file": str(tmp_path / "tiles"), "tiles": 3}
    found = runner("score", question="How many?", images=[ready], responses=RESPONSES)
    assert found["tiles"] == [3]
    # An image of one tile's size is its own tile.
    runner_image = as_image(tiles[0])
    (tmp_path / "one").write_bytes(tiles[0].tobytes())
    one = runner("score", question="Q?", images=[{"file": str(tmp_path / "one"), "tiles": 1}], responses=["A"])
    assert one == runner("score", question="Q?", images=[runner_image], responses=["A"])


def test_what_cannot_be_scored_is_refused_as_in_python(
    runner: Runner, demo_bundle: Path, demo_scorer: StepScorer, as_image: AsImage
) -> None:
    runner("open", bundle=str(demo_bundle))
    image = pixels(30, 30)
    lost = [(f"See {mark}: how many?", []) for mark in ("<image 1>", "<|IMAGE_2|>", "[img]", "<Image>", "<image: 3>")]
    for question, images in ((" \u3000\x1f", [image]), ("<image> <image>", [image]), ("word " * 5000, []), *lost):
        with pytest.raises(ValueError) as expected:
            demo_scorer.score(images, question, ["A"])
        with pytest.raises(RunnerError) as found:
            runner("score", question=question, images=[as_image(i) for i in images], responses=["A"])
        assert str(found.value) == str(expected.value)
        assert found.value.reason == expected.value.code  # type: ignore[attr-defined]


def test_an_onnx_runtime_that_cannot_be_loaded_says_what_to_do(runner: Runner, demo_bundle: Path) -> None:
    for library, message in (("/no/such.so", "cannot load /no/such.so"), ("libm.so.6", "is no ONNX Runtime library")):
        with pytest.raises(RunnerError, match=message) as found:
            runner("open", bundle=str(demo_bundle), ort_library=library)
        assert "VPRM_ORT_LIBRARY" in str(found.value)
    assert "ONNX Runtime" in runner("open", bundle=str(demo_bundle), ort_library=str(ORT_LIBRARY))


def test_a_deadline_ends_a_call(runner: Runner, demo_bundle: Path, as_image: AsImage) -> None:
    runner("open", bundle=str(demo_bundle))
    given = {"question": "How many?", "images": [as_image(pixels(500, 500))], "responses": RESPONSES}
    with pytest.raises(RunnerError, match="the deadline has passed") as found:
        runner("score", **given, deadline_ms=0)
    assert found.value.reason == "deadline"
    assert runner("score", **given, deadline_ms=10**9) == runner("score", **given)


def test_kept_prefixes_stay_within_their_budget(runner: Runner, demo_bundle: Path, as_image: AsImage) -> None:
    """One prefix of 1,0xx tokens fits, two do not; answers are the same whether one was kept or not."""
    images = [as_image(pixels(500, 400, seed)) for seed in range(3)]
    runner("open", bundle=str(demo_bundle))
    alone = [runner("score", question="Q?", images=[image], responses=RESPONSES) for image in images]
    assert runner("kept_bytes") == 0
    budget = 8 << 20
    runner("open", bundle=str(demo_bundle), prefix_cache_bytes=budget)
    for turn in (0, 0, 1, 2, 1, 0, 0):
        assert runner("score", question="Q?", images=[images[turn]], responses=RESPONSES) == alone[turn]
        assert 0 < runner("kept_bytes") <= budget
