"""Both TensorRT packages by one interface: loading, deserialising, contexts, runs.

What differs: TensorRT-RTX compiles its kernels when a context first meets a shape and keeps them in a runtime cache,
and captures CUDA graphs by itself (IRuntimeConfig). Source: NVIDIA's Python API reference of both packages.
"""

import mmap
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vprm_runtime.engines.cuda.device import CudaDevice
from vprm_runtime.engines.cuda.profiles import Profile, TensorShapes
from vprm_runtime.engines.cuda.protocol import ALIGNMENT_BYTES, Binding, Buffer
from vprm_runtime.engines.cuda.replay import Replay
from vprm_runtime.engines.cuda.tensorrt.engine_file import Library
from vprm_runtime.engines.cuda.tensorrt.kernel_cache import KernelCache
from vprm_runtime.engines.cuda.tensorrt.refit import refit
from vprm_runtime.errors import EngineError, MissingExtraError
from vprm_runtime.extras import import_optional

_MODULES: Mapping[Library, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_KEPT_MESSAGES = 50


def import_tensorrt(library: Library) -> Any:
    """The package's module. Raises MissingExtraError if it is not installed, EngineError if it cannot be loaded."""
    module = import_optional(_MODULES[library], f"{library} engines", library)
    if not hasattr(module, "Runtime"):  # some folder of that name on the path, or the bindings without their library
        raise MissingExtraError(f"{library} engines (the module {module.__name__} has no Runtime)", library)
    return module


def is_installed(library: Library) -> bool:
    """Whether the package can be imported."""
    try:
        import_tensorrt(library)
    except (MissingExtraError, EngineError):
        return False
    return True


def message_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the last warnings and errors in `messages` instead of printing them."""

    class MessageLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                self.messages = [*self.messages[1 - _KEPT_MESSAGES :], message]

    return MessageLogger()


class TensorRTGraph:
    """One deserialised engine: a context for each profile, all on one piece of workspace memory."""

    def __init__(
        self,
        library: Library,
        engine_path: Path,
        device: CudaDevice,
        *,
        refit_from: Path | None = None,
        runtime_cache: Path | None = None,
    ) -> None:
        self._trt = import_tensorrt(library)
        self._library = library
        self._device = device
        self._path = engine_path
        self._logger = message_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._deserialise()
        if refit_from is not None:
            refit(self._trt, self._engine, refit_from, self._logger)
        self._kernels: KernelCache | None = None
        self._kernels_path = runtime_cache
        self._contexts = self._make_contexts()
        # A recording holds what its context computed for its shapes, and does not outlive other shapes on that context.
        self._replays = [Replay(device, capacity=1) for _ in self._contexts] if library == "tensorrt" else []
        self._inputs = self._input_names()

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Shapes that each profile takes, as the engine itself says."""
        names = self._inputs
        return tuple(
            {name: TensorShapes(*map(as_shape, self._engine.get_tensor_profile_shape(name, index))) for name in names}
            for index in range(self._engine.num_optimization_profiles)
        )

    @property
    def workspace_bytes(self) -> int:
        """Memory that any of its contexts needs while it runs."""
        return int(self._engine.device_memory_size_v2)

    def use_workspace(self, workspace: Buffer) -> None:
        """Give all contexts the same memory; runs follow each other on one stream."""
        self._workspace = workspace
        for context in self._contexts:
            context.set_device_memory(workspace.address, workspace.size_bytes)

    def run(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        """Queue a run; repeated ones are replayed as CUDA graphs."""
        context = self._contexts[profile]

        def enqueue() -> None:
            for name, binding in bindings.items():
                if binding.address % ALIGNMENT_BYTES or not context.set_tensor_address(name, binding.address):
                    raise EngineError(
                        f"{self._path.name} refuses address {binding.address:#x} of {name}: {self._why()}"
                    )
                if name in self._inputs and not context.set_input_shape(name, binding.shape):
                    raise EngineError(
                        f"{self._path.name} refuses {name} of shape {list(binding.shape)} in profile {profile}: "
                        f"{self._why()}; build with a larger --profile"
                    )
            if not context.execute_async_v3(self._device.stream):
                raise EngineError(f"{self._path.name} failed to run: {self._why()}")

        if self._replays:
            self._replays[profile].run(tuple(bindings.items()), enqueue)
        else:
            enqueue()

    def _deserialise(self) -> Any:
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"{self._library} {self._trt.__version__} cannot load {self._path}: {self._why()}. "
                f"Build it again with  vprm build BUNDLE --engine {self._library}"
            )
        return engine

    def _make_contexts(self) -> list[Any]:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        contexts = []
        for index in range(self._engine.num_optimization_profiles):
            context = self._engine.create_execution_context(self._context_argument(strategy))
            if context is None or not context.set_optimization_profile_async(index, self._device.stream):
                raise EngineError(f"{self._path.name} gives no context for profile {index}: {self._why()}")
            contexts.append(context)
        self._device.synchronize()
        return contexts

    def _context_argument(self, strategy: Any) -> Any:
        """TensorRT takes the strategy itself, TensorRT-RTX a runtime configuration."""
        if self._library == "tensorrt":
            return strategy
        trt = self._trt
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.LAZY
        if self._kernels is None:
            self._kernels = KernelCache(config.create_runtime_cache(), self._kernels_path)
            weakref.finalize(self, self._kernels.save)
        config.set_runtime_cache(self._kernels.cache)
        return config

    def _input_names(self) -> tuple[str, ...]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        wanted = self._trt.TensorIOMode.INPUT
        return tuple(name for name in names if self._engine.get_tensor_mode(name) == wanted)

    def _why(self) -> str:
        return "; ".join(self._logger.messages[-3:]) or "the library gave no reason"


def as_shape(dims: Any) -> tuple[int, ...]:
    """TensorRT's Dims as a tuple."""
    return tuple(int(size) for size in dims)
