"""OpenVINO on the CPU: the same graphs, in bfloat16 arithmetic if the CPU has it, so never picked unasked.

A graph of precision `int8` stays in ONNX Runtime: OpenVINO runs products whose scales belong to tokens in floating
point, which is slower than either library's own best.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import GraphInfo
from vprm_runtime.bundle.names import path_text
from vprm_runtime.engines.host.engine import Arrays, HostEngine, HostGraph
from vprm_runtime.engines.host.onnxruntime import OrtGraph
from vprm_runtime.errors import EngineError
from vprm_runtime.extras import import_optional

Arithmetic = Literal["bf16", "fp32"]


class OpenVinoGraph:
    """A graph run by OpenVINO on the CPU, whatever floating type its weights are stored in.

    Raises MissingExtraError or EngineError if it cannot be opened.
    """

    def __init__(self, path: Path, threads: int | None = None, arithmetic: Arithmetic | None = None) -> None:
        self._openvino: Any = _import_openvino()
        self._version = self._openvino.__version__.partition("-")[0]
        core = self._openvino.Core()
        self._arithmetic = arithmetic or native_arithmetic(core)
        options = graph_options(self._arithmetic, threads)
        try:
            with _without_links(path) as real_path:
                self._request = core.compile_model(path_text(real_path), "CPU", options).create_infer_request()
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(
                f"OpenVINO {self._version} cannot open {path}: {' '.join(str(error).split())}. "
                f"Check the bundle with  vprm inspect {path.parent} --verify , or use --device cpu"
            ) from error

    @property
    def in_bf16(self) -> bool:
        """Whether products are computed in bfloat16."""
        return self._arithmetic == "bf16"

    @property
    def library(self) -> str:
        """Library, version and arithmetic."""
        return f"OpenVINO {self._version} ({self._arithmetic} arithmetic)"

    @property
    def tensors(self) -> list[str]:
        """Names of inputs and outputs."""
        model = self._request.get_compiled_model()
        return [port.get_any_name() for port in (*model.inputs, *model.outputs)]

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Fill all `outputs`, which have exactly the graph's shapes for these inputs."""
        for name, array in {**inputs, **outputs}.items():
            self._request.set_tensor(name, self._openvino.Tensor(array, shared_memory=True))
        self._request.infer()

    def only_output(self, inputs: Arrays) -> NDArray[Any]:
        """The output of a graph that has one, in an array of its own."""
        self.run(inputs, {})
        return np.array(self._request.get_output_tensor(0).data)


class OpenVinoEngine(HostEngine):
    """Graphs in OpenVINO on the CPU, those of precision `int8` and of target cpu-native in ONNX Runtime.

    `arithmetic` None: bfloat16 if the CPU computes in it, else float32.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None, arithmetic: Arithmetic | None = None) -> None:
        def opened(graph: GraphInfo) -> HostGraph:
            if _is_for_onnxruntime(graph):
                return OrtGraph(bundle.path, graph, threads)
            return OpenVinoGraph(bundle.path / graph.file, threads, arithmetic)

        graphs = bundle.manifest.graphs
        if _is_for_onnxruntime(graphs.vision) and _is_for_onnxruntime(graphs.llm):
            raise EngineError(
                "both graphs of this bundle are for ONNX Runtime (int8, or target cpu-native): use --device cpu, or "
                "export it with  --vision-precision fp32  for a vision encoder that OpenVINO runs"
            )
        super().__init__(bundle.manifest, opened(graphs.vision), opened(graphs.llm), threads)


@contextmanager
def _without_links(path: Path) -> Iterator[Path]:
    """The graph if its file and its weights are no symbolic links, as they are in a hub's cache.

    OpenVINO refuses weights that are a link out of the graph's folder. Hard links, in a folder that is gone when the
    graph has been opened, cost no copy. Raises EngineError if none can be made.
    """
    files = [path, path.with_name(f"{path.name}.data")]
    if not any(file.is_symlink() for file in files):
        yield path
        return
    try:
        with TemporaryDirectory(prefix=".vprm-", dir=path.resolve().parent) as folder:
            for file in files:
                Path(folder, file.name).hardlink_to(file.resolve())
            yield Path(folder, path.name)
    except OSError as error:
        raise EngineError(
            f"{path} and its weights are symbolic links, which OpenVINO does not follow, and hard links beside the "
            f"files cannot be made ({error.strerror}): copy the bundle with  cp -rL {path.parent} COPY  and open that"
        ) from error


def _is_for_onnxruntime(graph: GraphInfo) -> bool:
    return graph.precision == "int8" or graph.is_native


def graph_options(arithmetic: Arithmetic, threads: int | None) -> dict[str, Any]:
    """How OpenVINO compiles a graph for one request at a time."""
    hint = {"bf16": "bf16", "fp32": "f32"}[arithmetic]
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    return options if threads is None else options | {"INFERENCE_NUM_THREADS": threads}


def native_arithmetic(core: Any) -> Arithmetic:
    """The fastest floating type of the CPU's matrix products."""
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


def _import_openvino() -> Any:
    return import_optional("openvino", "scoring with OpenVINO", "openvino")
