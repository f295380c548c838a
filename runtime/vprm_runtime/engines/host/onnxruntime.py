"""ONNX Runtime on the CPU: a bundle's graphs as they are."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vprm_runtime import native
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import GraphInfo
from vprm_runtime.bundle.names import path_text
from vprm_runtime.engines.host.engine import Arrays, HostEngine
from vprm_runtime.errors import EngineError
from vprm_runtime.extras import import_optional


class OrtGraph:
    """A graph run by ONNX Runtime on the CPU. Raises MissingExtraError or EngineError if it cannot be opened."""

    in_bf16 = False

    def __init__(self, directory: Path, graph: GraphInfo, threads: int | None = None) -> None:
        self._ort: Any = import_onnxruntime("scoring on the CPU", "cpu")
        self._is_native = graph.is_native
        self._session = self._open(directory / graph.file, threads)

    @property
    def library(self) -> str:
        """Library and version, and what the native operators use."""
        own = f" with native operators at {native.description()}" if self._is_native else ""
        return f"ONNX Runtime {self._ort.__version__}{own}"

    @property
    def tensors(self) -> list[str]:
        """Names of inputs and outputs."""
        return [tensor.name for tensor in (*self._session.get_inputs(), *self._session.get_outputs())]

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Fill all `outputs`, which have exactly the graph's shapes for these inputs."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)

    def only_output(self, inputs: Arrays) -> NDArray[Any]:
        """The output of a graph that has one, in an array of its own."""
        output: NDArray[Any] = self._session.run(None, dict(inputs))[0]
        return output

    def _open(self, path: Path, threads: int | None) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        # Waiting threads sleep: those of one graph would take the cores from the other graph and from the next image.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        if self._is_native:
            options.register_custom_ops_library(str(native.library_path()))
        try:
            return self._ort.InferenceSession(
                path_text(path),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # which prints on stdout
            )
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime {self._ort.__version__} cannot open {path}: {error}. "
                f"Check the bundle with  vprm inspect {path.parent} --verify , or update onnxruntime"
            ) from error


class OrtEngine(HostEngine):
    """Both graphs in ONNX Runtime on the CPU."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        graphs = bundle.manifest.graphs
        vision, llm = (OrtGraph(bundle.path, graph, threads) for graph in (graphs.vision, graphs.llm))
        super().__init__(bundle.manifest, vision, llm, threads)


def import_onnxruntime(need: str, extra: str) -> Any:
    """The module. Raises MissingExtraError if it is not installed, EngineError if it cannot be loaded."""
    return import_optional("onnxruntime", need, extra)
