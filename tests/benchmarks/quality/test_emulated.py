"""The reference evaluator as an oracle: every operator of the quantised graphs, then whole bundles' step scores."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from vprm_benchmarks.quality.compare import compare
from vprm_benchmarks.quality.emulated import EmulatedGraph, emulated_engine
from vprm_benchmarks.quality.figures import Figures, figures_of
from vprm_calibration.calibrate import CalibrationOptions, calibrate
from vprm_calibration.sequences import SequenceLimits, feeds_of_rows, with_context
from vprm_demo import best_of_n_rows, calibration_rows, checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import StepScorer
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.datasets import open_rows
from vprm_runtime.errors import UnsupportedError

ROWS = 4
MEAN, MAX = 0.004, 0.15  # of fp8 step scores: see test_fp8_scores_equal_their_emulation


@pytest.fixture(scope="module")
def bundles(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo PRM in fp32, fp8 and int8."""
    work = tmp_path_factory.mktemp("emulated")
    calibration = work / "calibration.safetensors"
    calibrate(demo_bundle, calibration_rows(24), calibration, CalibrationOptions(SequenceLimits(24)))
    made = {"fp32": demo_bundle, "fp8": work / "fp8", "int8": work / "int8"}
    export_bundle(checkpoint_dir(), made["fp8"], ExportOptions("fp8", calibration=calibration))
    export_bundle(checkpoint_dir(), made["int8"], ExportOptions("int8", calibration=calibration))
    return made


def emulation_error(bundle: Path) -> Figures:
    """Step scores of a bundle by ONNX Runtime against those of the same bundle by NumPy."""
    opened = Bundle.open(bundle)
    scorer, emulated = StepScorer.open(opened, threads=1), StepScorer.open(opened, engine=emulated_engine(opened))
    rows = islice(open_rows(best_of_n_rows(12)), ROWS)
    return figures_of(compare(emulated, {"ONNX Runtime": scorer}, rows).rows["ONNX Runtime"])


def test_fp32_scores_equal_their_emulation(bundles: dict[str, Path]) -> None:
    assert emulation_error(bundles["fp32"]).errors.max < 1e-5


def test_fp8_scores_equal_their_emulation(bundles: dict[str, Path]) -> None:
    """Sums differ in their last bits, so some inputs at the edge between two codes get the other one, 6% away in E4M3,
    and layers after it carry that on: as large an error as one code can make, in few steps. Node by node all is equal.
    """
    errors = emulation_error(bundles["fp8"]).errors
    assert errors.mean < MEAN and errors.max < MAX


def test_int8_scores_of_linears_with_biases_equal_their_emulation(
    random_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Fused by ONNX Runtime, operator by operator in NumPy: a fusion that moves the biases would show."""
    export_bundle(random_checkpoint("qwen2"), tmp_path / "int8", ExportOptions("int8"))
    errors = emulation_error(tmp_path / "int8").errors
    assert errors.mean < 0.005 and errors.max < 0.05


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_every_node_equals_its_emulation(bundles: dict[str, Path], precision: str, tmp_path: Path) -> None:
    """Each operator in NumPy, given what ONNX Runtime (without fusions) gave to its own: codes are equal exactly."""
    bundle = Bundle.open(bundles[precision])
    model = ir.load(bundle.llm_path)
    made = [value for node in model.graph for value in node.outputs if not is_fp8(node)]
    model.graph.outputs.extend(value for value in made if value not in model.graph.outputs)
    nodes = list(model.graph)
    constants = {
        n: v.const_value.numpy().copy() for n, v in model.graph.initializers.items() if v.const_value is not None
    }
    ir.save(model, tmp_path / "llm.onnx", external_data="llm.data")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tmp_path / "llm.onnx", options, providers=["CPUExecutionProvider"])
    scorer = StepScorer.open(bundle, threads=1)
    sequence = next(feeds_of_rows(scorer, open_rows(calibration_rows(24)), SequenceLimits(1)))
    feeds = with_context(sequence, bundle.manifest.model.layers, bundle.manifest.model.kv_width)
    names = [str(value.name) for value in made]
    known = dict(zip(names, session.run(names, feeds), strict=True))
    compared = 0
    for node in nodes:
        values: dict[str, NDArray[Any]] = {**constants, **feeds, **known}
        alone = ReferenceEvaluator(ir.to_proto(node), opsets={"": 24})
        wanted = [str(value.name) for value in node.outputs]
        inputs = {name: values[name] for name in alone.input_names if name}
        values |= zip(wanted, alone.run(wanted, inputs), strict=True)
        for value in node.outputs:
            name = str(value.name)
            if name not in known:
                known[name] = values[name]  # E4M3 codes, which ONNX Runtime does not hand out
                continue
            compared += 1
            exact = node.op_type in ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "Gather", "Split", "Cast")
            size = float(np.abs(known[name]).max()) if known[name].size else 0.0
            np.testing.assert_allclose(
                values[name],
                known[name],
                rtol=0 if exact else 1e-5,
                atol=0 if exact else 2e-6 * size,
                err_msg=node.op_type,
            )
    assert compared > 100


def is_fp8(node: ir.Node) -> bool:
    """Whether a node makes E4M3 codes."""
    zero = node.inputs[2] if node.op_type == "QuantizeLinear" else None
    return zero is not None and zero.dtype == ir.DataType.FLOAT8E4M3FN


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    value = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("ours", "Tangent", [value])
    model = ir.Model(ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 24, "ours": 1}), ir_version=11)
    ir.save(model, tmp_path / "graph.onnx")
    with pytest.raises(UnsupportedError, match="Tangent"):
        EmulatedGraph(tmp_path / "graph.onnx")
