"""OpenVINO runs the same graphs; the parity table has the limits: bfloat16 where the CPU computes in it, or float32."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vprm_benchmarks.parity.tolerances import tolerance
from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, BundleError, EngineError, StepScorer
from vprm_runtime.bundle.manifest import Precision
from vprm_runtime.engines import Block
from vprm_runtime.engines.host.onnxruntime import OrtEngine
from vprm_runtime.engines.host.openvino import Arithmetic, OpenVinoEngine, OpenVinoGraph
from vprm_runtime.execution.blocks import causal_block
from vprm_runtime.results import ScoreResult

pytest.importorskip("openvino", reason="openvino is not installed: pip install 'vprm[openvino]'")

RESPONSES = ["Two bars.\n\nThe red one is 4.\n\nSo 4.", ["Three bars.", "So 5."], "Ten."]
QUESTION = "How high is the red bar?"
FP32_CLOSE = 2e-6  # float32 rounding of differently shaped matrix products, at test width


@pytest.fixture(scope="module")
def demo_bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """The demo PRM by LLM and vision precision; each is exported once."""
    made: dict[tuple[Precision, Precision | None], Bundle] = {}

    def get(precision: Precision, vision: Precision | None = None) -> Bundle:
        if (precision, vision) not in made:
            path = tmp_path_factory.mktemp("demo") / "bundle"
            export_bundle(checkpoint_dir(), path, ExportOptions(precision, vision))
            made[precision, vision] = Bundle.open(path)
        return made[precision, vision]

    return get


def opened(bundle: Bundle, arithmetic: Arithmetic | None = None, max_block_tokens: int | None = None) -> StepScorer:
    base = StepScorer.open(bundle, "cpu", threads=1)
    engine = OpenVinoEngine(bundle, threads=1, arithmetic=arithmetic)
    return base.with_engine(engine, max_block_tokens=max_block_tokens)


def step_scores(result: ScoreResult) -> list[float]:
    return [step.score for candidate in result.candidates for step in candidate.steps]


def embeddings_and_logits(bundle: Bundle, engine: OpenVinoEngine | OrtEngine) -> list[NDArray[np.floating]]:
    """Of two tiles of noise, and of a prompt of 80 tokens with the first tile's rows, in three blocks."""
    random = np.random.default_rng(5)
    size, model = bundle.manifest.tiling.tile_size_px, bundle.manifest.model
    embeds = engine.encode_tiles(random.integers(0, 256, (2, size, size, 3), np.uint8))
    ids = [bundle.manifest.tokens.img_context] * model.tokens_per_tile + list(range(40, 56))
    cache = engine.new_cache(10)
    logits = [
        engine.forward(causal_block(ids[:40], 0, embeds[:40]), cache),
        engine.forward(causal_block(ids[40:70], 40, embeds[40 : model.tokens_per_tile], [28, 29]), cache),
        engine.forward(causal_block(ids[70:], 70, embeds[:0], range(len(ids) - 70)), cache),
    ]
    assert [len(part) for part in logits] == [0, 2, len(ids) - 70]
    return [embeds.astype(np.float32), np.concatenate(logits)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("arithmetic", [None, "fp32"])
def test_embeddings_and_logits_equal_onnx_runtimes(
    demo_bundles: Callable[..., Bundle], precision: Precision, arithmetic: Arithmetic | None
) -> None:
    bundle = demo_bundles(precision)
    engine = OpenVinoEngine(bundle, threads=1, arithmetic=arithmetic)
    row = max(engine.precisions[1], precision, key=["fp32", "fp16", "bf16"].index)
    found = embeddings_and_logits(bundle, engine)
    wanted = embeddings_and_logits(bundle, OrtEngine(bundle, threads=1))
    for stage, got, expected in zip(("image_embeddings", "step_logits"), found, wanted, strict=True):
        error = np.abs(got - expected).max() / np.sqrt(np.mean(np.square(expected)))
        assert error <= tolerance(stage, row).limit  # type: ignore[arg-type]
    if engine.precisions == ("bf16", "bf16"):
        assert np.abs(found[0] - wanted[0]).max() > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "w8", "w4", "int8"])
def test_scores_equal_onnx_runtimes(
    demo_bundles: Callable[..., Bundle], precision: Precision, make_image: Callable[..., Image.Image]
) -> None:
    bundle = demo_bundles(precision)
    scorer = opened(bundle)
    result = scorer.score(make_image(), QUESTION, RESPONSES)
    expected = StepScorer.open(bundle, "cpu", threads=1).score(make_image(), QUESTION, RESPONSES)
    limit = tolerance("step_scores", "bf16").limit
    np.testing.assert_allclose(step_scores(result), step_scores(expected), rtol=0, atol=limit)
    assert ("LLM int8 in ONNX Runtime" in scorer.engine.description) == (precision == "int8")
    assert "OpenVINO 20" in scorer.engine.description
    assert " arithmetic)" in scorer.engine.description


def test_positions_are_not_rounded(demo_bundles: Callable[..., Bundle]) -> None:
    """Past 256, bfloat16 has no odd numbers."""
    bundle = demo_bundles("fp32")
    block = causal_block(range(40, 100), 0, np.zeros((0, bundle.manifest.model.hidden_size), np.float32), range(60))
    late = replace(block, position_ids=block.position_ids + 20_000)
    engines = OpenVinoEngine(bundle, threads=1), OrtEngine(bundle, threads=1)
    found, expected = (engine.forward(late, engine.new_cache(60)) for engine in engines)
    error = np.abs(found - expected).max() / np.sqrt(np.mean(np.square(expected)))
    assert error <= tolerance("step_logits", "bf16").limit


def test_packed_equals_one_by_one_and_sessions_equal_whole_responses(
    demo_bundles: Callable[..., Bundle], make_image: Callable[..., Image.Image]
) -> None:
    scorer = opened(demo_bundles("fp32"), "fp32", max_block_tokens=50)
    session = scorer.session(make_image(), QUESTION)
    packed = session.score(RESPONSES)
    alone = [session.score([response]).candidates[0] for response in RESPONSES]
    for together, single in zip(packed.candidates, alone, strict=True):
        assert together.score == pytest.approx(single.score, abs=FP32_CLOSE)
    steps = RESPONSES[0].split("\n\n")  # type: ignore[union-attr]
    expected = [step.score for step in packed.candidates[0].steps]
    found = [session.append(steps[0]).score]
    fork = session.fork()
    fork.append("Another step.")
    assert session.score_next([steps[1]]).candidates[0].score == pytest.approx(expected[1], abs=FP32_CLOSE)
    session.append("A step to be forgotten.")
    session.rewind()
    found += [session.append(step).score for step in steps[1:]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=FP32_CLOSE)


def test_the_graph_reads_and_writes_the_cache_where_it_is(demo_bundles: Callable[..., Bundle]) -> None:
    bundle = demo_bundles("fp32")
    engine = OpenVinoEngine(bundle, threads=1, arithmetic="fp32")
    none = np.zeros((0, bundle.manifest.model.hidden_size), np.float32)
    cache = engine.new_cache(20)
    cache.rows[:] = 7
    engine.forward(causal_block(range(40, 50), 0, none), cache)
    assert (cache.rows[:, :, :10] != 7).all()
    assert (cache.rows[:, :, 10:] == 7).all()
    rows, place = cache.rows[:, :, :10].copy(), cache.rows.ctypes.data
    engine.forward(causal_block(range(50, 55), 10, none), cache)
    assert cache.rows.ctypes.data == place
    np.testing.assert_array_equal(cache.rows[:, :, :10], rows)
    assert (cache.rows[:, :, 15:] == 7).all()


def test_the_bf16_of_the_cpu_is_the_default(demo_bundles: Callable[..., Bundle]) -> None:
    import openvino

    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    engine = StepScorer.open(demo_bundles("fp32"), "openvino", threads=1).engine
    assert isinstance(engine, OpenVinoEngine)
    assert engine.precisions == (("bf16", "bf16") if has_bf16 else ("fp32", "fp32"))
    composed = OpenVinoEngine(demo_bundles("int8"), threads=1, arithmetic="bf16")
    assert composed.precisions == ("bf16", "int8")
    assert isinstance(StepScorer.open(demo_bundles("fp32"), "auto", threads=1).engine, OrtEngine)


def test_what_it_cannot_run_is_refused(demo_bundles: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"use --device cpu, or export it with  --vision-precision fp32"):
        OpenVinoEngine(demo_bundles("int8", "int8"))
    broken = tmp_path / "llm.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"OpenVINO 20\S+ cannot open .*llm\.onnx.*vprm inspect \S+ --verify"):
        OpenVinoGraph(broken)
    engine = OpenVinoEngine(demo_bundles("fp32"), threads=1)
    none = np.zeros((0, 3), np.float32)
    block = causal_block([40], 0, none)
    with pytest.raises(EngineError, match="the LLM graph failed on 1 tokens after 0"):
        engine.forward(block, engine.new_cache(4))
    with pytest.raises(EngineError, match=r"the vision graph failed on tiles \[1, 3, 3, 3\]"):
        engine.encode_tiles(np.zeros((1, 3, 3, 3), np.uint8))
    with pytest.raises(TypeError, match="OpenVinoEngine needs a cache from its own new_cache"):
        engine.forward(Block(*[np.zeros(1)] * 5), object())  # type: ignore[arg-type]


def test_another_bundle_s_manifest_is_refused(demo_bundles: Callable[..., Bundle]) -> None:
    """By every engine on the CPU, before anything runs: a layer too few, and a layer too many."""
    bundle = demo_bundles("fp32")
    model = bundle.manifest.model
    for layers, tensor in ((model.layers - 1, "new.5.key"), (model.layers + 1, "new.6.key")):
        other = Bundle(bundle.path, replace(bundle.manifest, model=replace(model, layers=layers)))
        for engine in (OrtEngine, OpenVinoEngine):
            with pytest.raises(BundleError, match=rf"llm.onnx and manifest.json do not belong .* 4 .*'{tensor}'"):
                engine(other)


def linked(bundle: Path, folder: Path) -> Path:
    """The bundle as a snapshot of a hub's cache: links into blobs."""
    snapshot, blobs = folder / "snapshots" / "main", folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(bundle.iterdir())):
        shutil.copy(file, blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:064x}")
    return snapshot


def test_a_bundle_of_links_opens(demo_bundle: Path, tmp_path: Path) -> None:
    expected = StepScorer.open(demo_bundle, "openvino", threads=1).score(None, "Q?", ["One."])
    snapshot = linked(demo_bundle, tmp_path)
    assert StepScorer.open(snapshot, "openvino", threads=1).score(None, "Q?", ["One."]) == expected
    assert sorted(file.name[:5] for file in (tmp_path / "blobs").iterdir()) == ["00000"] * len(
        list(demo_bundle.iterdir())
    )


def test_links_that_cannot_be_replaced_are_named(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice is a command: following it opens the bundle."""
    snapshot = linked(demo_bundle, tmp_path)

    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with pytest.raises(EngineError, match="symbolic links, which OpenVINO does not follow") as caught:
        StepScorer.open(snapshot, "openvino", threads=1)
    command = re.search(r"cp -rL \S+ COPY", str(caught.value))
    assert command is not None
    subprocess.run(command[0].replace("COPY", str(tmp_path / "copy")).split(), check=True)
    assert StepScorer.open(tmp_path / "copy", "openvino", threads=1).score(None, "Q?", ["One."]).best == 0
