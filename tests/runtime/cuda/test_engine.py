"""The TensorRT engine on a fake device that runs the same graphs in ONNX Runtime: cache, packing, parts, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.fake_device import FakeDevice, FakeGraph, fake_engine

from vprm_benchmarks.random_checkpoint import LlmSpec, tiny_spec, write_random_checkpoint
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, EngineError, InputError, StepScorer
from vprm_runtime.engines.base import Block, Engine
from vprm_runtime.engines.cuda.protocol import DeviceRows
from vprm_runtime.execution.blocks import causal_block

QUESTION = "How large is the angle at the top?"
RESPONSES = [f"Step one of {n}.\n\nThe sum is {n * 7}.\n\nSo the answer is {n}." * (1 + n % 3) for n in range(8)]


@pytest.fixture(
    scope="module",
    params=[(16, "fp16"), (64, "fp16"), (16, "fp32"), (32, "fp32")],
    ids=["fp16, staged rows", "fp16, rows in place", "fp32, staged rows", "fp32, rows in place"],
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Cached rows of 64 or 128 bytes, which are staged, and of 256 bytes, which the graph writes in place."""
    folder = tmp_path_factory.mktemp("bundle")
    head_dim, precision = request.param
    spec = replace(tiny_spec(), llm=LlmSpec(hidden=head_dim * 4, heads=4, kv_heads=2, layers=2))
    export_bundle(write_random_checkpoint(folder / "checkpoint", spec), folder / "bundle", ExportOptions(precision))
    return Bundle.open(folder / "bundle")


def scores_with(bundle: Bundle, engine: Engine, image: Image.Image, **options: int) -> list[list[float]]:
    scorer = StepScorer.open(bundle, "cpu")
    options = {"max_block_tokens": 512, **options}  # one block size, so that rounding is the same
    scorer = scorer.with_engine(engine, **options)
    result = scorer.score([image], QUESTION, RESPONSES)
    assert [candidate.error for candidate in result.candidates] == [None] * len(RESPONSES)
    return [[step.score for step in candidate.steps] for candidate in result.candidates]


def cpu_scores(bundle: Bundle, image: Image.Image, **options: int) -> list[list[float]]:
    return scores_with(bundle, StepScorer.open(bundle, "cpu").engine, image, **options)


def flat(scores: Sequence[Sequence[float]]) -> list[float]:
    return [score for candidate in scores for score in candidate]


def test_packed_best_of_n_equals_the_cpu_engine(bundle: Bundle, make_image: Callable[..., Image.Image]) -> None:
    device = FakeDevice()
    engine, llm = fake_engine(bundle, device)
    image = make_image(200, 90)
    assert scores_with(bundle, engine, image) == cpu_scores(bundle, image)
    assert [profile for profile, _ in llm.runs] == [0] + [1] * (len(llm.runs) - 1)


@pytest.mark.parametrize("block_tokens", [48, 512], ids=["prefix in chunks", "one block"])
def test_sessions_equal_the_cpu_engine(
    bundle: Bundle, make_image: Callable[..., Image.Image], block_tokens: int
) -> None:
    """Prefix, packed whole responses, committed steps, alternatives, forks and rewinds: the same numbers to the bit."""
    image = make_image(200, 90)
    opened = StepScorer.open(bundle, "cpu")

    def told(engine: Engine) -> list[float]:
        scorer = opened.with_engine(engine, max_block_tokens=block_tokens)
        session = scorer.session(image, QUESTION)
        found = flat([[step.score for step in one.steps] for one in session.score(RESPONSES).candidates])
        found.append(session.append("Step one of 3.").score)
        found += [one.score for one in session.score_next(["The sum is 21.", "The sum is 22.", "No."]).candidates]
        fork = session.fork()
        found.append(session.append("The sum is 21.").score)
        found.append(fork.append("The sum is 22, and that is wrong.").score)
        found += [one.score for one in fork.score_next(["So it is 3.", "So it is 4."]).candidates]
        session.rewind(1)
        found.append(session.append("So the answer is 3.").score)
        return found

    engine, llm = fake_engine(bundle, FakeDevice())
    found = told(engine)
    assert found == told(opened.engine)
    assert len(set(found)) > len(RESPONSES)
    if block_tokens == 48:  # several blocks of the prefix: later ones run after cached rows that bear image tokens
        assert sum(shapes["image_embeds"][0] > 0 for _, shapes in llm.runs) > 1


def test_only_logits_come_back(bundle: Bundle, make_image: Callable[..., Image.Image]) -> None:
    device = FakeDevice()
    engine, llm = fake_engine(bundle, device)
    scores_with(bundle, engine, make_image(200, 90))
    wanted = sum(shapes["score_positions"][0] for _, shapes in llm.runs if shapes["past.0.key"][0])
    assert device.copied_to_host_bytes == wanted * 2 * 4


def test_blocks_longer_than_the_profile_are_cut(bundle: Bundle, make_image: Callable[..., Image.Image]) -> None:
    image = make_image(200, 90)
    engine, llm = fake_engine(bundle, FakeDevice(), "tokens=1:16:32,past=0:512:1024,scores=1:2:3")
    cut = scores_with(bundle, engine, image, max_block_tokens=512)
    assert max(shapes["input_ids"][0] for _, shapes in llm.runs) <= 32
    np.testing.assert_allclose(flat(cut), flat(cpu_scores(bundle, image)), atol=2e-3)  # other block sizes round apart


def test_memory_is_given_back(bundle: Bundle, make_image: Callable[..., Image.Image]) -> None:
    device = FakeDevice()
    engine, _ = fake_engine(bundle, device)
    before = device.free_bytes()
    scores_with(bundle, engine, make_image())
    assert device.free_bytes() == before


def causal(tokens: int, past: int, bundle: Bundle) -> Block:
    rows = np.zeros((0, bundle.manifest.model.hidden_size), bundle.manifest.graphs.llm.io_dtype)
    return causal_block(list(range(5, 5 + tokens)), past, rows, [tokens - 1])


def test_growing_truncating_and_failing_leave_the_cache_right(bundle: Bundle) -> None:
    device = FakeDevice()
    engine, llm = fake_engine(bundle, device)
    cache = engine.new_cache(1)
    assert cache.capacity_tokens == 512
    engine.forward(causal(400, 0, bundle), cache)
    expected = engine.forward(causal(100, 400, bundle), cache)
    cache.truncate(400)
    engine.forward(causal(300, 400, bundle), cache)  # grows past 512
    assert (cache.length_tokens, cache.capacity_tokens) == (700, 1024)
    cache.truncate(400)
    llm.fail_next = True
    with pytest.raises(EngineError, match="the device failed"):
        engine.forward(causal(100, 400, bundle), cache)
    assert cache.length_tokens == 400
    np.testing.assert_array_equal(engine.forward(causal(100, 400, bundle), cache), expected)
    with pytest.raises(ValueError, match="cannot truncate 500 cached rows to 501"):
        cache.truncate(501)
    with pytest.raises(TypeError, match="needs a cache from its own new_cache"):
        engine.forward(causal(1, 0, bundle), object())  # type: ignore[arg-type]


def test_vision_output_stays_on_the_device(bundle: Bundle) -> None:
    device = FakeDevice()
    engine, _ = fake_engine(bundle, device, "tiles=1:1:2")
    tiles = np.random.default_rng(0).integers(0, 256, (5, 56, 56, 3), np.uint8)
    rows = engine.encode_tiles(tiles)
    assert isinstance(rows, DeviceRows)
    assert device.copied_to_host_bytes == 0
    expected = StepScorer.open(bundle, "cpu").engine.encode_tiles(tiles)
    np.testing.assert_allclose(np.asarray(rows), expected, atol=2e-3)
    np.testing.assert_array_equal(np.asarray(rows[3:7]), np.asarray(rows)[3:7])
    np.testing.assert_array_equal(np.asarray(rows[3:7][1:2], np.float32), np.asarray(rows)[4:5].astype(np.float32))
    with pytest.raises(ValueError, match="in steps of 1"):
        rows[::2]


def test_graphs_of_different_float_types(
    checkpoint: Path, tmp_path: Path, make_image: Callable[..., Image.Image]
) -> None:
    export_bundle(checkpoint, tmp_path / "bundle", ExportOptions("fp16", "fp32"))
    bundle = Bundle.open(tmp_path / "bundle")
    engine, _ = fake_engine(bundle, FakeDevice())
    assert scores_with(bundle, engine, make_image()) == cpu_scores(bundle, make_image())


def test_a_request_that_cannot_fit_is_refused_with_numbers(bundle: Bundle) -> None:
    device = FakeDevice(total_bytes=1 << 30)
    engine, llm = fake_engine(bundle, device)
    itemsize = np.dtype(bundle.manifest.graphs.llm.io_dtype).itemsize
    row_bytes = bundle.manifest.model.kv_width * 2 * 2 * itemsize
    tokens = device.free_bytes() // row_bytes + 1
    with pytest.raises(
        InputError, match=rf"needs \d+\.\d+ GB on fake device, \d+\.\d+ GB are free \({row_bytes:,} bytes"
    ):
        engine.new_cache(tokens)
    assert not llm.runs


def test_too_many_tokens_for_the_profile_are_refused(bundle: Bundle) -> None:
    engine, llm = fake_engine(bundle, FakeDevice(), "tokens=1:16:32,past=0:32:64")
    cache = engine.new_cache(200)
    with pytest.raises(
        InputError, match="100 tokens are too many for this engine: its profile has 64 cached and 32 new"
    ):
        engine.forward(causal(100, 0, bundle), cache)
    assert not llm.runs
    assert cache.length_tokens == 0


def test_a_mask_that_looks_ahead_is_not_cut(bundle: Bundle) -> None:
    engine, _ = fake_engine(bundle, FakeDevice(), "tokens=1:16:32,past=0:64:64")
    block = causal(40, 0, bundle)
    block.attention_mask[0, 1] = True
    with pytest.raises(ValueError, match="some see later ones"):
        engine.forward(block, engine.new_cache(64))


def test_fake_graph_is_strict(bundle: Bundle) -> None:
    """The fake would notice an engine that ignores alignment."""
    device = FakeDevice()
    engine, llm = fake_engine(bundle, device)
    assert isinstance(llm, FakeGraph)
    with pytest.raises(AssertionError, match="outside of all allocations"):
        device.check(1, 1)
    assert engine.description == "fake"


def test_every_call_makes_its_device_current(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(FakeDevice, "make_current", lambda self: made.append("current"))
    engine, _ = fake_engine(bundle, FakeDevice())
    cache = engine.new_cache(8)
    engine.forward(causal(2, 0, bundle), cache)
    engine.encode_tiles(np.zeros((1, 56, 56, 3), np.uint8))
    engine.close()
    assert len(made) == 4
