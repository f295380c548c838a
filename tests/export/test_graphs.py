"""The exported graphs: their declared inputs and outputs, bundle contents, and scores equal to transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from vprm_benchmarks.reference.scorer import ReferenceScorer
from vprm_demo import checkpoint_dir, example
from vprm_export import ExportOptions, export_bundle
from vprm_export.graphs.position_resize import bicubic_resize
from vprm_runtime import StepScorer
from vprm_runtime.bundle.bundle import Bundle, file_info
from vprm_runtime.bundle.graph_io import llm_io, vision_io
from vprm_runtime.images.load import load_image
from vprm_runtime.images.tiling import tile_image

RESPONSES = [["Two bars.", "The red one is 4.", "So 4."], ["Three."]]


@pytest.mark.parametrize("family", ["internlm2", "qwen2", "llama"])
def test_step_scores_equal_transformers(
    family: str,
    random_checkpoint: Callable[[str], Path],
    random_scorer: Callable[[str], StepScorer],
    make_image: Callable[..., Image.Image],
) -> None:
    image = make_image(120, 60)
    reference = ReferenceScorer.load(random_checkpoint(family))
    result = random_scorer(family).score(image, "How high is the red bar?", RESPONSES)
    spread = []
    for response, candidate in zip(RESPONSES, result.candidates, strict=True):
        expected = reference.score([image], "How high is the red bar?", [response])[0].scores
        np.testing.assert_allclose([step.score for step in candidate.steps], expected, rtol=0, atol=1e-5)
        spread += expected.tolist()
    assert max(spread) - min(spread) > 0.01


@pytest.mark.parametrize("family", ["internlm2", "qwen2"])
def test_graphs_declare_the_documented_inputs_and_outputs(
    random_scorer: Callable[[str], StepScorer], family: str
) -> None:
    scorer = random_scorer(family)
    model, tiling = scorer.manifest.model, scorer.manifest.tiling
    engine = scorer.engine
    llm = llm_io(
        layers=model.layers, hidden_size=model.hidden_size, kv_width=model.kv_width, candidates=2, dtype="float32"
    )
    vision = vision_io(tile_size_px=tiling.tile_size_px, hidden_size=model.hidden_size, dtype="float32")
    for graph, io in zip(engine._graphs, (vision, llm), strict=True):  # type: ignore[attr-defined]
        session = graph._session
        for declared, specs in ((session.get_inputs(), io.inputs), (session.get_outputs(), io.outputs)):
            assert [(d.name, tuple(d.shape)) for d in declared] == [(s.name, s.shape) for s in specs]
            short = {"float32": "float"}
            assert [d.type for d in declared] == [f"tensor({short.get(s.dtype, s.dtype)})" for s in specs]


def test_graphs_pass_the_onnx_checker_and_use_standard_operators(demo_bundle: Path) -> None:
    for name in ("vision.onnx", "llm.onnx"):
        onnx.checker.check_model(str(demo_bundle / name), full_check=True)
        model = onnx.load(demo_bundle / name, load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 24)]


def test_a_bundle_lists_every_file(demo_bundle: Path) -> None:
    manifest = Bundle.open(demo_bundle).manifest
    assert {path.name for path in demo_bundle.iterdir()} == {*manifest.files, "manifest.json"}
    assert all(file_info(demo_bundle / name) == info for name, info in manifest.files.items())
    document = json.loads((demo_bundle / "manifest.json").read_text("utf-8"))
    assert document["graphs"]["llm"]["precision"] == "fp32"
    assert str(demo_bundle.parent) not in json.dumps(document)


def test_the_head_has_candidate_tokens_only(demo_bundle: Path) -> None:
    model = onnx.load(demo_bundle / "llm.onnx", load_external_data=False)
    output = model.graph.output[0]
    assert [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim] == ["K", 2]
    head = next(t for t in model.graph.initializer if t.name == "language_model.output.weight")
    assert head.dims[1] == 2


def test_int8_image_embeddings_stay_close(demo_bundle: Path, demo_scorer: StepScorer, tmp_path: Path) -> None:
    """All of the encoder's Linears are int8 and have biases: an error of 1%, beyond 10% where biases are scaled too."""
    export_bundle(checkpoint_dir(), tmp_path / "int8", ExportOptions("fp32", vision_precision="int8"))
    model = onnx.load(tmp_path / "int8" / "vision.onnx", load_external_data=False)
    config = json.loads((checkpoint_dir() / "config.json").read_text("utf-8"))
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == 4 * config["vision_config"]["num_hidden_layers"]
    tiles = tile_image(load_image(example().image), demo_scorer.manifest.tiling)
    expected = demo_scorer.engine.encode_tiles(tiles)
    actual = StepScorer.open(tmp_path / "int8").engine.encode_tiles(tiles)
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize(("source", "target"), [(16, 32), (32, 16), (7, 11)])
def test_bicubic_resize_equals_torch(source: int, target: int) -> None:
    grid = np.random.default_rng(0).standard_normal((source, source, 3)).astype(np.float32)
    image = torch.from_numpy(grid).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, size=(target, target), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(
        bicubic_resize(grid, target, target), expected[0].permute(1, 2, 0).numpy(), rtol=0, atol=2e-6
    )
