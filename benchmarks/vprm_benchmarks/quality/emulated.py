"""An LLM graph run by ONNX's reference evaluator: the oracle for what quantised graphs compute.

It shares nothing with ONNX Runtime but the file: `onnx.reference` computes each operator in NumPy and ml_dtypes, as the
operator set defines it. Slow: for checks on small models.

| checked against it  | how                                                 |
|---------------------|-----------------------------------------------------|
| a bundle's scores   | `vprm quality BUNDLE --against BUNDLE --emulate`    |
| fp32, fp8, int8     | tests/benchmarks/quality/test_emulated.py           |
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.engines.host.engine import Arrays, HostEngine
from vprm_runtime.engines.host.onnxruntime import OrtGraph
from vprm_runtime.errors import UnsupportedError


class EmulatedGraph:
    """A graph of standard operators in NumPy. Raises UnsupportedError if it has another one."""

    in_bf16 = False

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        for node in model.graph.node:
            if node.domain or not onnx.defs.has(node.op_type):
                raise UnsupportedError(
                    f"{path} has the operator {node.domain}.{node.op_type}, which is not one of ONNX's own: "
                    "export the bundle with  --target cpu"
                )
        self._graph = ReferenceEvaluator(model)

    @property
    def library(self) -> str:
        """Library and version."""
        return f"ONNX's reference evaluator {onnx.__version__}"

    @cached_property
    def tensors(self) -> list[str]:
        """Names of inputs and outputs."""
        return [*self._graph.input_names, *self._graph.output_names]

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Fill all `outputs`."""
        found = self._graph.run(list(outputs), dict(inputs))
        for target, values in zip(outputs.values(), found, strict=True):
            target[...] = values

    def only_output(self, inputs: Arrays) -> NDArray[Any]:
        """The output of a graph that has one."""
        (output,) = self._graph.run(None, dict(inputs))
        return np.asarray(output)


def emulated_engine(bundle: Bundle, threads: int | None = None) -> HostEngine:
    """A bundle's vision graph in ONNX Runtime and its LLM graph in the reference evaluator."""
    vision = OrtGraph(bundle.path, bundle.manifest.graphs.vision, threads)
    return HostEngine(bundle.manifest, vision, EmulatedGraph(bundle.llm_path))
