"""What must not change a score: packing, chunking, order, duplicates, file format. And where scores are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.benchmarks.conftest import MakeBundle, MakeCheckpoint

from vprm_benchmarks.parity.cases import draw_image
from vprm_benchmarks.random_checkpoint import LlmFamily, tiny_spec
from vprm_benchmarks.reference import MM_PRM, VISUALPRM, ReferenceScorer
from vprm_benchmarks.reference.prompt import find_score_positions
from vprm_benchmarks.reference.scorer import ReferenceImages
from vprm_export import ExportOptions
from vprm_runtime import StepScorer

ROUNDING = 5e-6  # float32 sums in another order; the table's step_scores row is twice this
FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MANY = settings(FEW, max_examples=120)

CONTROL_TEXTS = ("<|", "|>", "<img", "</img", "<IMG", "<image>", "[UNUSED", "<s>", "</s>", "<unk>", "<prm>")
OTHER_ADDED_TEXTS = ("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
LIKELY_WORDS = ("+", "-", "assistant", "user", "system", "Step 1:", "9", "42", "x^2", "angle", "Yes", "No", "a", "B")
LIKELY_SIGNS = ("∠", "é", "½", "用户", "😀", "▁", "<", ">", "[", "]", "{", "}", "\u200b", "\u3000")
LIKELY_SPACES = ("\n", "\n\n", " ", "  ", "\t", "\r\n")


def _is_benign(text: str) -> bool:
    return not any(control in text for control in (*CONTROL_TEXTS, *OTHER_ADDED_TEXTS))


any_character = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
likely_text = st.lists(st.sampled_from([*LIKELY_WORDS, *LIKELY_SIGNS, *LIKELY_SPACES]), max_size=12).map("".join)
benign_text = st.one_of(likely_text, st.text(any_character, max_size=30)).filter(_is_benign)
step_lists = st.lists(benign_text, min_size=1, max_size=6)
words = st.text(st.sampled_from("abc 12+-=.\n"), max_size=40)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Images of one, three and nine tiles."""
    return [draw_image(40, 40, 1), draw_image(110, 55, 2), draw_image(200, 100, 3)]


@pytest.fixture(
    scope="module",
    params=[(VISUALPRM, "internlm2"), (VISUALPRM, "qwen2"), (MM_PRM, "internlm2")],
    ids=lambda param: f"{param[0].name}-{param[1]}",
)
def both_sides(
    request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> tuple[StepScorer, ReferenceScorer]:
    rule, family = request.param
    checkpoint = make_checkpoint(tiny_spec(family))
    bundle = make_bundle(checkpoint, ExportOptions(score_rule=rule.name))
    return StepScorer.open(bundle, threads=1), ReferenceScorer.load(checkpoint, rule=rule)


@MANY
@given(question=benign_text.filter(str.strip), steps=step_lists, tiles=st.lists(st.integers(1, 3), max_size=2))
def test_recorded_positions_are_the_ones_found_by_matching(
    both_sides: tuple[StepScorer, ReferenceScorer], question: str, steps: list[str], tiles: list[int]
) -> None:
    scorer, reference = both_sides
    prompt = scorer.prepare(question, tiles, steps)
    image = Image.new("RGB", (56, 56))
    ids = reference.token_ids(ReferenceImages([[image] * count for count in tiles], None, None), question, steps)
    assert list(prompt.ids) == ids
    assert list(prompt.score_positions) == find_score_positions(reference.rule, ids, reference.tokenizer)
    assert len(prompt.score_positions) == len(steps)


@pytest.fixture(scope="module", params=["internlm2", "qwen2"])
def open_scorer(
    request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> Callable[[int], StepScorer]:
    """A scorer by its number of tokens a block; sessions are shared."""
    family: LlmFamily = request.param
    bundle = make_bundle(make_checkpoint(tiny_spec(family)), ExportOptions())
    scorer = StepScorer.open(bundle, threads=1)

    def with_block(max_block_tokens: int) -> StepScorer:
        return scorer.with_engine(scorer.engine, max_block_tokens=max_block_tokens)

    return with_block


def _scores(
    scorer: StepScorer, image: Image.Image | None, question: str, responses: list[list[str]]
) -> list[np.ndarray]:
    result = scorer.score(image, question, responses)
    assert all(candidate.error is None for candidate in result.candidates)
    return [np.array([step.score for step in candidate.steps]) for candidate in result.candidates]


def _assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDING)


responses_of_steps = st.lists(st.lists(words, min_size=1, max_size=4), min_size=1, max_size=5)


@FEW
@given(data=st.data(), responses=responses_of_steps, block=st.integers(1, 700))
def test_packing_and_chunk_size_do_not_matter(
    open_scorer: Callable[[int], StepScorer],
    images: list[Image.Image],
    data: st.DataObject,
    responses: list[list[str]],
    block: int,
) -> None:
    image = data.draw(st.sampled_from([None, *images]))
    together = _scores(open_scorer(512), image, "What is it?", responses)
    alone = [_scores(open_scorer(512), image, "What is it?", [response])[0] for response in responses]
    _assert_same(together, alone)
    _assert_same(together, _scores(open_scorer(max(block, 8)), image, "What is it?", responses))


@FEW
@given(responses=responses_of_steps, seed=st.integers(0, 2**32 - 1), copies=st.integers(0, 3))
def test_order_and_duplicates_do_not_matter(
    open_scorer: Callable[[int], StepScorer],
    images: list[Image.Image],
    responses: list[list[str]],
    seed: int,
    copies: int,
) -> None:
    generator = np.random.default_rng(seed)
    order = [*range(len(responses)), *generator.integers(0, len(responses), copies)]
    generator.shuffle(order)
    scorer = open_scorer(64)
    plain = _scores(scorer, images[0], "What is it?", responses)
    mixed = _scores(scorer, images[0], "What is it?", [responses[index] for index in order])
    _assert_same([plain[index] for index in order], mixed)


@FEW
@given(width=st.integers(1, 240), height=st.integers(1, 240), seed=st.integers(0, 99))
def test_file_format_does_not_matter(
    open_scorer: Callable[[int], StepScorer], tmp_path: Path, width: int, height: int, seed: int
) -> None:
    scorer = open_scorer(512)
    image = draw_image(width, height, seed)
    expected = _scores(scorer, image, "What is it?", [["A shape.", "Blue."]])
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found = scorer.score(buffer.getvalue(), "What is it?", [["A shape.", "Blue."]])
        assert [step.score for step in found.candidates[0].steps] == expected[0].tolist()
    file = tmp_path / "image.png"
    image.save(file)
    for form in (file, str(file), np.asarray(image)):
        found = scorer.score(form, "What is it?", [["A shape.", "Blue."]])
        assert [step.score for step in found.candidates[0].steps] == expected[0].tolist()


@FEW
@given(steps=st.lists(words, min_size=1, max_size=9), most=st.integers(1, 10))
def test_max_steps_is_the_same_as_joining_by_hand(
    open_scorer: Callable[[int], StepScorer], steps: list[str], most: int
) -> None:
    scorer = open_scorer(512)
    size = -(-len(steps) // most)
    joined = ["\n\n".join(steps[start : start + size]) for start in range(0, len(steps), size)]
    grouped = scorer.score(None, "What is it?", [steps], max_steps=most).candidates[0]
    assert [step.text for step in grouped.steps] == joined
    _assert_same([np.array([step.score for step in grouped.steps])], _scores(scorer, None, "What is it?", [joined]))
