"""A CUDA device through `cuda-python`: memory, copies, one stream, recorded runs."""

import weakref
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from vprm_runtime.engines.cuda.memory_budget import gigabytes
from vprm_runtime.engines.cuda.protocol import DeviceFacts
from vprm_runtime.engines.cuda.spare_memory import SpareMemory, free_memory
from vprm_runtime.errors import EngineError
from vprm_runtime.extras import import_optional

_NO_DRIVER = (
    "install NVIDIA's driver for this device (nvidia-smi should list it), or score on the CPU with --device cpu"
)


class CudaDevice:
    """One CUDA device, its memory and one stream.

    Raises EngineError if there is no driver or no device of that index, MissingExtraError naming `extra` without
    cuda-python.
    """

    def __init__(self, index: int = 0, extra: str = "tensorrt") -> None:
        self._rt = import_cuda_runtime(extra)
        count = self._rt.cudaGetDeviceCount()
        if int(count[0]) != 0:
            raise EngineError(f"no CUDA device can be used ({self._describe(count[0])}): {_NO_DRIVER}")
        if not 0 <= index < int(count[1]):
            raise EngineError(f"there is no CUDA device {index}, this machine has {count[1]}: choose a smaller number")
        self._index = index
        self.make_current()
        properties = self._call("cudaGetDeviceProperties", index)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        capability = int(properties.major) * 10 + int(properties.minor)
        self._facts = DeviceFacts(name, capability, int(properties.totalGlobalMem))
        self._memory = SpareMemory()
        # Apart from the default stream, on which other libraries of the process may work while runs are recorded.
        self._raw_stream = self._call("cudaStreamCreateWithFlags", self._rt.cudaStreamNonBlocking)
        self.stream = int(self._raw_stream)
        # All memory of the device has been released by then: whoever holds some refers to the device.
        weakref.finalize(self, free_memory, self._rt, self._memory).atexit = False

    @property
    def facts(self) -> DeviceFacts:
        """What the device is."""
        return self._facts

    def make_current(self) -> None:
        """Let this thread's CUDA calls, those of libraries too, go to this device: every thread begins at device 0."""
        self._call("cudaSetDevice", self._index)

    def free_bytes(self) -> int:
        """Memory that can still be allocated."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free) + self._memory.spare_bytes

    def allocate(self, size_bytes: int) -> int:
        """Address of memory; released memory of the same size first, so that repeated requests see the same one."""
        spare = self._memory.take(size_bytes)
        if spare is not None:
            return spare
        status, address = self._rt.cudaMalloc(size_bytes)
        if int(status) != 0:
            self.trim()
            status, address = self._rt.cudaMalloc(size_bytes)
        if int(status) != 0:
            raise EngineError(
                f"cannot allocate {gigabytes(size_bytes)} on {self._facts.name} ({self._describe(status)}), "
                f"{gigabytes(self.free_bytes())} are free: use fewer tiles, or free memory on the device"
            )
        self._memory.add(int(address), size_bytes)
        return int(address)

    def release(self, address: int) -> None:
        """Keep memory for the next request of its size; work in the stream that still uses it comes first anyway."""
        self._memory.release(address)

    def trim(self) -> None:
        """Give released memory back to the driver, after all queued work."""
        self.synchronize()
        for unused in self._memory.drain():
            self._call("cudaFree", unused)

    def copy_to_device(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy. Pageable host memory is staged before the call returns (CUDA, API synchronization behavior)."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._raw_stream)

    def copy_to_host(self, array: NDArray[Any], address: int) -> None:
        """Fill an array, after all queued work."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._raw_stream)
        self.synchronize()

    def copy_on_device(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy between two places that do not overlap."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size_bytes, kind, self._raw_stream)

    def synchronize(self) -> None:
        """Wait for all queued work."""
        self._call("cudaStreamSynchronize", self._raw_stream)

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """Record what `enqueue` puts on the stream, without running it, as a graph for `launch`."""
        self._call(
            "cudaStreamBeginCapture", self._raw_stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        )
        try:
            enqueue()
        except Exception:
            self._rt.cudaStreamEndCapture(self._raw_stream)  # its own failure follows from the first one
            raise
        graph = self._call("cudaStreamEndCapture", self._raw_stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return executable

    def launch(self, graph: Any) -> None:
        """Queue a recorded graph."""
        self._call("cudaGraphLaunch", graph, self._raw_stream)

    def forget(self, graph: Any) -> None:
        """Free a recorded graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._rt, name)(*arguments)
        if int(status) != 0:
            raise EngineError(
                f"{name} failed on {self._facts.name if hasattr(self, '_facts') else 'the CUDA device'}: "
                f"{self._describe(status)}; see the driver's log (dmesg) if it persists"
            )
        return results[0] if len(results) == 1 else tuple(results)

    def _describe(self, status: Any) -> str:
        text = self._rt.cudaGetErrorString(status)[1]
        return text.decode() if isinstance(text, bytes) else str(text)


def import_cuda_runtime(extra: str = "tensorrt") -> Any:
    """`cuda.bindings.runtime`. Raises MissingExtraError if cuda-python is not installed, EngineError if it cannot be
    loaded.
    """
    return import_optional("cuda.bindings.runtime", "scoring on a CUDA device (cuda-python)", extra)


def is_device_present() -> bool:
    """Whether cuda-python is installed and finds a device with a driver."""
    try:
        status, count = import_cuda_runtime().cudaGetDeviceCount()
    except (ImportError, RuntimeError):
        return False
    return int(status) == 0 and int(count) > 0
