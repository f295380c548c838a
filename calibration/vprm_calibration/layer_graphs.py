"""An LLM graph cut into one graph a layer, so that a model of any size runs with one layer in memory.

A segment takes the residual stream before its layer and gives the one after it, and the inputs of the layer's Linears.
The cuts are found by the names of Linears that the exporter noted on the nodes (vprm_export.graphs.builder.LINEAR_KEY).
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vprm_export.graphs.builder import IR_VERSION, LINEAR_KEY
from vprm_export.precision.linears import linear_names
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.names import path_text
from vprm_runtime.engines.select import device_and_index
from vprm_runtime.errors import BundleError, InputError

Array = NDArray[Any]
_WEIGHTS_FILE = "segment.data"


@dataclass(frozen=True)
class Linear:
    """One matrix product of a Linear, in a graph: input [tokens, in], weight [in, out], product [tokens, out]."""

    name: str
    value: ir.Value
    weight: ir.Value
    product: ir.Value

    def weight_values(self) -> NDArray[np.float32]:
        """float32 [out, in], as checkpoints have it."""
        if self.weight.const_value is None:
            raise BundleError(f"the weight of {self.name} is not stored in the graph: export the bundle again")
        return self.weight.const_value.numpy().astype(np.float32).T


class LayeredGraph:
    """A floating-point LLM graph and where its layers begin. With device "cuda" its segments run there."""

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        name, index = device_and_index(device)
        cuda = [("CUDAExecutionProvider", {"device_id": index})] if name == "cuda" else []
        self.providers: list[Any] = [*cuda, "CPUExecutionProvider"]
        info, self.layers = bundle.manifest.graphs.llm, bundle.manifest.model.layers
        if info.quantisation is not None:
            raise InputError(f"{bundle.path} is {info.precision}: calibrate a bundle exported as fp32 or fp16")
        self.graph = ir.load(bundle.llm_path).graph
        self.weights_path = bundle.path / info.files[1]
        self.dtype = np.dtype(info.io_dtype)
        self.linears: dict[str, list[Linear]] = {name: [] for name in linear_names(self.layers)}
        for node in self.graph:
            linear = node.metadata_props.get(LINEAR_KEY)
            if linear in self.linears and node.inputs[0] is not None and node.inputs[1] is not None:
                self.linears[linear].append(Linear(linear, node.inputs[0], node.inputs[1], node.outputs[0]))
        if not all(self.linears.values()):
            raise BundleError(f"{bundle.llm_path} does not say where its Linears are: export the bundle again")
        self.starts = [self._residual(f"layers.{layer}.qkv") for layer in range(self.layers)]

    def layer_linears(self, layer: int) -> list[str]:
        """Names of a layer's Linears."""
        return [linear for linear in self.linears if linear.startswith(f"layers.{layer}.")]

    def end(self, layer: int) -> ir.Value:
        """The residual stream after a layer; logits after the last."""
        return self.starts[layer + 1] if layer + 1 < self.layers else self.graph.outputs[0]

    def _residual(self, linear: str) -> ir.Value:
        """Input of the norm in front of a Linear: the residual stream."""
        value = self.linears[linear][0].value
        while (node := value.producer()) is not None and node.inputs[0] is not None:
            value = node.inputs[0]
            if node.op_type == "RMSNormalization":
                return value
        raise BundleError(f"no norm in front of {linear}: export the bundle again")


class Segment:
    """A part of the graph, opened in ONNX Runtime."""

    def __init__(self, session: Any, outputs: Sequence[str]) -> None:
        self._session = session
        self._inputs = {value.name for value in session.get_inputs()}
        self._outputs = list(outputs)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Outputs in the order they were asked for; feeds that the segment does not take are left out."""
        results: list[Array] = self._session.run(
            self._outputs, {name: value for name, value in feeds.items() if name in self._inputs}
        )
        return results


@contextmanager
def opened_segment(
    layered: LayeredGraph, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], directory: Path
) -> Iterator[Segment]:
    """Cut the graph between values and open it, in a folder in `directory` that is there meanwhile.

    The graph's own inputs come on top of `inputs`. Values among `inputs` replace what would have made them. The weights
    are read in the bundle's place if `directory` is on its disk, else copied.
    """
    import onnxruntime

    float_types = {np.dtype(np.float32): ir.DataType.FLOAT, np.dtype(np.float16): ir.DataType.FLOAT16}
    norms_in_float32 = {value.name for value in layered.starts}
    for value in (*inputs, *outputs):
        if value.type is None:
            is_residual = value.name in norms_in_float32
            value.type = ir.TensorType(ir.DataType.FLOAT if is_residual else float_types[layered.dtype])
        value.shape = value.shape if value.shape is not None else ir.Shape([None, None])
    graph = ir.convenience.extract(layered.graph, [*inputs, *layered.graph.inputs], outputs)
    folder = directory / "segment"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="vprm")
        shared = _linked(layered.weights_path, folder)
        ir.save(model, folder / "segment.onnx", external_data=None if shared else _WEIGHTS_FILE)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # many short runs: leave cores to others
        session = onnxruntime.InferenceSession(path_text(folder / "segment.onnx"), options, providers=layered.providers)
        names = {value.name for value in session.get_outputs()}
        yield Segment(session, [str(value.name) for value in outputs if value.name in names])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _linked(weights: Path, folder: Path) -> bool:
    """Link a bundle's weights into `folder`: ONNX Runtime reads none from outside a graph's folder. False if not."""
    try:
        os.link(weights, folder / weights.name)
    except OSError:  # on another disk, or one without links
        return False
    return True
