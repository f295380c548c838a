"""VisualPRM-8B's own configuration and all of its 573 tensors' names and shapes, without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vprm_export.architecture import Architecture
from vprm_export.checkpoint import Checkpoint, TensorEntry
from vprm_export.external_data import ExternalData
from vprm_export.graphs.llm import LlmDtypes, build_llm_graph
from vprm_export.graphs.llm_weights import LlmWeights
from vprm_export.graphs.vision import build_vision_graph
from vprm_export.weights import TensorReader
from vprm_runtime import CheckpointError
from vprm_runtime.bundle.graph_io import llm_io, vision_io

DATA = Path(__file__).parent.parent / "data" / "visualprm_8b"
CONFIG = json.loads((DATA / "config.json").read_text("utf-8"))
SHAPES = {name: tuple(shape) for name, shape in json.loads((DATA / "tensor_shapes.json").read_text("utf-8")).items()}
FP16 = np.dtype(np.float16)


def build(shapes: dict[str, tuple[int, ...]]) -> tuple[ExternalData, ExternalData]:
    """Both graphs of a checkpoint with these tensors; returns the layout of their weights."""
    entries = {n: TensorEntry(Path("absent"), 0, np.dtype(ml_dtypes.bfloat16), s) for n, s in shapes.items()}
    reader = TensorReader(Checkpoint(Path("checkpoint"), CONFIG, "", entries))
    architecture = Architecture.from_config(CONFIG, Path("checkpoint"))
    vision, llm = architecture.vision, architecture.llm
    vision_data, llm_data = ExternalData("vision.onnx.data"), ExternalData("llm.onnx.data")
    io = vision_io(tile_size_px=vision.image_px, hidden_size=llm.hidden_size, dtype="float16")
    build_vision_graph(vision, llm.hidden_size, reader, io, FP16, vision_data)
    io = llm_io(layers=32, hidden_size=4096, kv_width=1024, candidates=2, dtype="float16")
    build_llm_graph(llm, 92546, [342, 285], LlmWeights(llm, reader), io, LlmDtypes(FP16, FP16), llm_data)
    reader.check_all_used(architecture.is_idle)
    return vision_data, llm_data


def test_every_tensor_has_its_place() -> None:
    vision_data, llm_data = build(SHAPES)
    weights_bytes = 2 * sum(int(np.prod(shape)) for shape in SHAPES.values())
    head_bytes = 2 * 92553 * 4096
    # All weights but the head's other 92,551 rows, plus page alignment and the float32 norms and positions.
    assert 0 < vision_data.size_bytes + llm_data.size_bytes - (weights_bytes - head_bytes) < 10_000_000


def test_what_the_configuration_says() -> None:
    architecture = Architecture.from_config(CONFIG, Path("checkpoint"))
    assert architecture.vision.tokens_per_tile == 256
    assert (architecture.llm.heads, architecture.llm.kv_heads, architecture.llm.head_dim) == (32, 8, 128)
    assert architecture.llm.max_positions_tokens == 32768
    assert (architecture.min_tiles, architecture.max_tiles, architecture.use_thumbnail) == (1, 12, True)


@pytest.mark.parametrize("name", ["mlp1.3.bias", "vision_model.encoder.layers.23.ls2", "language_model.output.weight"])
def test_one_tensor_less_is_noticed(name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        build({key: shape for key, shape in SHAPES.items() if key != name})
