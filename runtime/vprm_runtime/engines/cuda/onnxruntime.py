"""ONNX Runtime on CUDA: the bundle's graphs as they are, on the addresses that the engine gives them.

ONNX Runtime runs on the device's stream, so that copies and graphs follow each other without waiting. It silently runs
nodes without a CUDA kernel on the CPU and copies their inputs and outputs. Graphs in which that happens to a node that
matters are refused.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines.cuda.device import CudaDevice
from vprm_runtime.engines.cuda.engine import DeviceEngine
from vprm_runtime.engines.cuda.limits import Limits, inputs_outputs_bytes
from vprm_runtime.engines.cuda.memory_budget import MemoryBudget
from vprm_runtime.engines.cuda.profiles import Profile, SizeRange, llm_profiles, sized_profiles, vision_profiles
from vprm_runtime.engines.cuda.protocol import Binding, DeviceFacts
from vprm_runtime.engines.host.onnxruntime import import_onnxruntime
from vprm_runtime.errors import EngineError, MissingExtraError, UnsupportedError

DeviceType = Literal["cuda", "cpu"]
PROVIDER = "CUDAExecutionProvider"
_NEED = ("scoring with ONNX Runtime on CUDA", "cuda")  # for what, and the extra that has it

# Attention with a mask: ONNX Runtime's fused kernel wants rows of the mask that begin at multiples of four elements
# (of eight before 1.27), else it multiplies out all scores (onnxruntime/core/providers/cuda/llm/attention.cc).
TOTAL_MULTIPLE = 8

_MAX_BLOCK_TOKENS = 2048  # enough to fill a device, and few enough for float32 attention, which keeps its scores
_COSTLY = ("MatMul", "Gemm", "Attention", "Normalization", "RotaryEmbedding", "Gelu")
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
}
_INSTALL = (
    "run  pip uninstall onnxruntime  and  pip install 'vprm[cuda]'  (the two packages exclude each other), "
    "and check that nvidia-smi lists the device"
)


class OrtDeviceGraph:
    """One ONNX file that ONNX Runtime runs on a device's addresses; with device type "cpu" on host memory, for tests.

    `stream` is the CUDA stream to run on. Raises EngineError if ONNX Runtime cannot open the file or has no usable
    device, UnsupportedError if it has no CUDA kernel for a costly node.
    """

    def __init__(
        self,
        path: Path,
        profiles: tuple[Profile, ...],
        device_type: DeviceType = "cuda",
        device_index: int = 0,
        stream: int = 0,
    ) -> None:
        self.profiles = profiles
        self._ort: Any = import_onnxruntime(*_NEED)
        self._path = path
        self._device: tuple[str, int] = (device_type, device_index)
        self._session = self._open(stream)
        self._inputs = {node.name: _DTYPES[node.type] for node in self._session.get_inputs()}
        self._outputs = {node.name: _DTYPES[node.type] for node in self._session.get_outputs()}

    @property
    def tensors(self) -> list[str]:
        """Names of inputs and outputs."""
        return [*self._inputs, *self._outputs]

    def run(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        """Run on all inputs and outputs by name; all profiles are one to ONNX Runtime."""
        run = self._session.io_binding()
        for tensors, bind in ((self._inputs, run.bind_input), (self._outputs, run.bind_output)):
            for name, dtype in tensors.items():
                bind(name, *self._device, dtype, bindings[name].shape, bindings[name].address)
        try:
            self._session.run_with_iobinding(run)
        except Exception as error:
            raise EngineError(f"{self._path.name} failed in ONNX Runtime {self._ort.__version__}: {error}") from error

    def _open(self, stream: int) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        name, index = self._device
        providers: list[Any] = ["CPUExecutionProvider"]
        if name == "cuda":
            providers.insert(0, (PROVIDER, provider_options(index, stream)))
        try:
            session = self._ort.InferenceSession(str(self._path), options, providers=providers, enable_fallback=0)
        except Exception as error:
            raise EngineError(f"ONNX Runtime {self._ort.__version__} cannot open {self._path}: {error}") from error
        if name == "cuda":
            if PROVIDER not in session.get_providers():
                raise EngineError(f"ONNX Runtime {self._ort.__version__} found no usable CUDA device: {_INSTALL}")
            check_placement(nodes_on_cpu(session), self._path.name, str(self._ort.__version__))
        return session


def provider_options(device_index: int, stream: int) -> dict[str, str]:
    """Options of the CUDA provider: float32 products in float32 (its default rounds them to TF32), our stream."""
    return {
        "device_id": str(device_index),
        "user_compute_stream": str(stream),
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }


def nodes_on_cpu(session: Any) -> Counter[str]:
    """How many nodes of each operator a session runs on the CPU."""
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
    )


def check_placement(on_cpu: Mapping[str, int], file: str, version: str) -> None:
    """Raise UnsupportedError if operators with most of the work were left to the CPU."""
    costly = [f"{count} of {kind}" for kind, count in sorted(on_cpu.items()) if any(part in kind for part in _COSTLY)]
    if costly:
        raise UnsupportedError(
            f"ONNX Runtime {version} has no CUDA kernel for nodes of {file} ({', '.join(costly)}) and would run them "
            "on the CPU: update onnxruntime-gpu, export again with  --precision fp16 , or score with --device cpu"
        )


def open_ort_cuda(bundle: Bundle, device_index: int = 0) -> DeviceEngine:
    """The engine over ONNX Runtime on one CUDA device.

    Raises MissingExtraError, EngineError (no CUDA in ONNX Runtime, no driver, too little memory) or UnsupportedError (a
    bundle for CPUs).
    """
    ort = import_onnxruntime(*_NEED)
    manifest = bundle.manifest
    if PROVIDER not in ort.get_available_providers():
        raise EngineError(f"the installed onnxruntime {ort.__version__} has no CUDA: {_INSTALL}")
    if manifest.graphs.llm.is_native or manifest.graphs.vision.is_native:
        raise UnsupportedError("this bundle is for CPUs (target cpu-native): export it with  --target cpu")
    device = CudaDevice(device_index, extra="cuda")
    _load_cuda_libraries(ort)
    vision_table, llm_table = graph_profiles(manifest)
    budget = memory_budget(manifest, device.facts, device.free_bytes(), Limits.of(vision_table, llm_table))
    budget.check_engine()
    vision, llm = (
        OrtDeviceGraph(path, table, "cuda", device_index, device.stream)
        for path, table in ((bundle.vision_path, vision_table), (bundle.llm_path, llm_table))
    )
    manifest.check_tensors(vision.tensors, llm.tensors)
    description = (
        f"ONNX Runtime {ort.__version__}, {device.facts.name} (sm{device.facts.compute_capability}), "
        f"vision {manifest.graphs.vision.precision}, LLM {manifest.graphs.llm.precision}"
    )
    return DeviceEngine(manifest, device, vision, llm, budget, description, TOTAL_MULTIPLE)


def graph_profiles(manifest: Manifest) -> tuple[tuple[Profile, ...], tuple[Profile, ...]]:
    """Sizes that the engine keeps to: (vision, LLM). ONNX Runtime takes any, so cached tokens end with the model's."""
    tokens = _MAX_BLOCK_TOKENS + TOTAL_MULTIPLE - 1
    sizes = sized_profiles(
        manifest,
        tokens=SizeRange(1, tokens, tokens),
        past=SizeRange(0, 0, manifest.model.max_positions_tokens),
        scores=SizeRange(1, 80, 1024),
    )
    vision, llm = manifest.graph_io
    return vision_profiles(vision, sizes), llm_profiles(llm, sizes)


def memory_budget(manifest: Manifest, facts: DeviceFacts, free_bytes: int, limits: Limits) -> MemoryBudget:
    """Weights by their files; what ONNX Runtime allocates while it runs is an estimate."""
    graphs = manifest.graphs
    itemsize = np.dtype(graphs.llm.io_dtype).itemsize
    return MemoryBudget(
        device_name=facts.name,
        free_bytes=free_bytes,
        weights_bytes=sum(
            info.size_bytes
            for graph in (graphs.vision, graphs.llm)
            for name, info in manifest.files_of(graph).items()
            if name != graph.file
        ),
        workspace_bytes=_workspace_bytes(manifest.model.hidden_size, limits.tokens, itemsize),
        inputs_outputs_bytes=inputs_outputs_bytes(manifest, limits),
        cache_row_bytes=manifest.cache_row_bytes,
        workspace_is_held=False,
    )


def _workspace_bytes(hidden_size: int, tokens: int, itemsize: int) -> int:
    """The residual stream, its norm, an MLP of 4 * hidden three times over, for a block; and attention's keys, values
    and mask for a typical request, all heads apart."""
    typical_total = 8192
    return tokens * hidden_size * (2 * 4 + 3 * 4 * itemsize) + typical_total * (2 * hidden_size + tokens) * itemsize


def is_cuda_installed() -> bool:
    """Whether the installed ONNX Runtime was built with CUDA."""
    try:
        return PROVIDER in import_onnxruntime(*_NEED).get_available_providers()
    except (MissingExtraError, EngineError):
        return False


def _load_cuda_libraries(ort: Any) -> None:
    """Load CUDA from NVIDIA's packages, where pip put it; what a system has is found anyway. The function prints what
    it does not find, and stdout is not its own."""
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
