"""ONNX Runtime on CUDA: rows of the cache and image embeddings stay on the device, through I/O binding.

Inputs go up and logits come down; ONNX Runtime copies those. Everything else is bound by address: the graph writes new
rows directly behind the cached ones. With `device_type="cpu"` the same code runs on host memory, for tests.
"""

import importlib
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle import Bundle
from vprm_runtime.engines.base import Block, FloatArray, Int64Array, KVCache, kept_in_place
from vprm_runtime.errors import EngineError, MissingExtraError, UnsupportedError

DeviceType = Literal["cuda", "cpu"]
PROVIDER = "CUDAExecutionProvider"
_ONE_ROW: Int64Array = np.zeros(1, np.int64)
_INSTALL = (
    "run  pip uninstall onnxruntime  and  pip install 'vprm[cuda]'  (the two packages exclude each other), "
    "and check that nvidia-smi lists the device"
)


class OrtRows:
    """Rows [N, width] in an OrtValue: slices share the memory, and NumPy reads a copy."""

    def __init__(self, value: Any, start: int, stop: int) -> None:
        self.value = value
        self._start = start
        self._stop = stop

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return len(self), int(self.value.shape()[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return np.dtype(np.float16 if self.value.data_type() == "tensor(float16)" else np.float32)

    @property
    def address(self) -> int:
        """Where the first row is."""
        return int(self.value.data_ptr()) + self._start * self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice) -> "OrtRows":
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows on a device are taken in steps of 1, not {step}: copy them with numpy.asarray")
        return OrtRows(self.value, self._start + start, self._start + max(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("rows on a device cannot be read without a copy")
        array: NDArray[Any] = self.value.numpy()[self._start : self._stop]
        return array if dtype is None else array.astype(dtype, copy=False)


class OrtDeviceCache:
    """Cached rows [layers, 2, capacity, kv_width] in one OrtValue; index 1 of axis 1 is key, value."""

    def __init__(self, ort: Any, device: tuple[str, int], shape: tuple[int, int, int, int], dtype: Any) -> None:
        self._ort = ort
        self._device = device
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self._rows = ort.OrtValue.ortvalue_from_shape_and_type(shape, self._dtype.type, *device)
        self._length = 0

    @property
    def length_tokens(self) -> int:
        """Number of cached rows."""
        return self._length

    def truncate(self, length_tokens: int) -> None:
        """Forget all rows from `length_tokens` on."""
        if not 0 <= length_tokens <= self._length:
            raise ValueError(f"cannot truncate {self._length} cached rows to {length_tokens}")
        self._length = length_tokens

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these, which are ascending; row rows[i] becomes row i. Copies through the host."""
        first = kept_in_place(rows, self._length)
        if first < len(rows):
            host = self._rows.numpy()
            for part in host.reshape(-1, *host.shape[2:]):  # a layer's keys or values at a time
                part[first : len(rows)] = part[rows[first:]]
            self._rows.update_inplace(host)
        self._length = len(rows)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more rows; growing copies through the host, so sessions ask for enough at first."""
        layers, parts, capacity, width = self._shape
        needed = self._length + tokens
        if needed <= capacity:
            return
        shape = (layers, parts, max(needed, capacity + capacity // 2), width)
        grown = np.zeros(shape, self._dtype)
        grown[:, :, : self._length] = self._rows.numpy()[:, :, : self._length]
        self._rows = self._ort.OrtValue.ortvalue_from_numpy(grown, *self._device)
        self._shape = shape

    def addresses(self, layer: int, part: int) -> tuple[int, int]:
        """Where a layer's cached keys (part 0) or values (part 1) begin, and where the next row belongs."""
        _, parts, capacity, width = self._shape
        row_bytes = width * self._dtype.itemsize
        first = int(self._rows.data_ptr()) + (layer * parts + part) * capacity * row_bytes
        return first, first + self._length * row_bytes

    def advance(self, tokens: int) -> None:
        """Count rows that the graph has written behind the cached ones."""
        self._length += tokens


class OrtCudaEngine:
    """Engine over two ONNX Runtime sessions on one CUDA device."""

    def __init__(self, bundle: Bundle, device_index: int = 0, device_type: DeviceType = "cuda") -> None:
        self._ort: Any = _import_onnxruntime()
        self._device: tuple[str, int] = (device_type, device_index)
        if device_type == "cuda" and PROVIDER not in self._ort.get_available_providers():
            raise EngineError(f"the installed onnxruntime {self._ort.__version__} has no CUDA: {_INSTALL}")
        self._model = bundle.manifest.model
        self._graphs = bundle.manifest.graphs
        if self._graphs.llm.is_native or self._graphs.vision.is_native:
            raise UnsupportedError("this bundle is for CPUs (target cpu-native): export it with  --target cpu")
        self._candidates = len(bundle.manifest.score_rule.candidates)
        self._dtype = np.dtype(self._graphs.llm.io_dtype)
        self._vision = self._open(bundle.vision_path)
        self._llm = self._open(bundle.llm_path)

    @property
    def description(self) -> str:
        """Library, version, device and precisions."""
        vision, llm = self._graphs.vision.precision, self._graphs.llm.precision
        name, index = self._device
        return f"ONNX Runtime {self._ort.__version__}, {name.upper()} {index}, vision {vision}, LLM {llm}"

    @property
    def max_block_tokens(self) -> int:
        """Tokens of a call: enough to fill a device, and few enough for attention that keeps its scores in memory."""
        return 2048

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> FloatArray:
        """Image embeddings [T*tokens_per_tile, hidden], left on the device: an `OrtRows`, which NumPy can read."""
        contiguous = np.ascontiguousarray(tiles)  # bound by address: has to outlive the run
        binding = self._vision.io_binding()
        binding.bind_cpu_input("tiles", contiguous)
        binding.bind_output("image_embeds", *self._device)
        self._run(self._vision, binding, f"the vision graph failed on tiles {list(tiles.shape)}")
        value = binding.get_outputs()[0]
        if self._graphs.vision.io_dtype != self._graphs.llm.io_dtype:
            value = self._ort.OrtValue.ortvalue_from_numpy(value.numpy().astype(self._dtype), *self._device)
        return cast(FloatArray, OrtRows(value, 0, int(value.shape()[0])))

    def new_cache(self, capacity_tokens: int) -> OrtDeviceCache:
        """An empty cache for about `capacity_tokens` rows."""
        shape = (self._model.layers, 2, max(1, capacity_tokens), self._model.kv_width)
        return OrtDeviceCache(self._ort, self._device, shape, self._dtype)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Run the block; the graph writes its new rows directly behind the cached ones."""
        if not isinstance(cache, OrtDeviceCache):
            raise TypeError(f"OrtCudaEngine needs a cache from its own new_cache, got {type(cache).__name__}")
        new, past = len(block.input_ids), cache.length_tokens
        cache.reserve(new)
        positions = block.score_positions if len(block.score_positions) else _ONE_ROW  # the graph wants K >= 1
        binding = self._llm.io_binding()
        inputs = {
            "input_ids": block.input_ids,
            "position_ids": block.position_ids,
            "attention_mask": block.attention_mask,
            "score_positions": positions,
        }
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in contiguous.items():
            binding.bind_cpu_input(name, array)
        self._bind_embeds(binding, block.image_embeds)
        logits = np.empty((len(positions), self._candidates), np.float32)
        binding.bind_output("step_logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._bind_cache(binding, cache, past, new)
        self._run(self._llm, binding, f"the LLM graph failed on {new} tokens behind {past}")
        cache.advance(new)
        return logits[: len(block.score_positions)]

    def _bind_embeds(self, binding: Any, embeds: FloatArray | OrtRows) -> None:
        if isinstance(embeds, OrtRows):
            binding.bind_input("image_embeds", *self._device, self._dtype.type, embeds.shape, embeds.address)
        else:
            binding.bind_cpu_input("image_embeds", np.ascontiguousarray(embeds, self._dtype))

    def _bind_cache(self, binding: Any, cache: OrtDeviceCache, past: int, new: int) -> None:
        width, kind = self._model.kv_width, self._dtype.type
        for layer in range(self._model.layers):
            for part, name in enumerate(("key", "value")):
                first, behind = cache.addresses(layer, part)
                binding.bind_input(f"past.{layer}.{name}", *self._device, kind, (past, width), first)
                binding.bind_output(f"new.{layer}.{name}", *self._device, kind, (new, width), behind)

    def _run(self, session: Any, binding: Any, failure: str) -> None:
        try:
            binding.synchronize_inputs()
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:
            raise EngineError(f"{failure}: {error}") from error

    def _open(self, path: Path) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        name, index = self._device
        providers: list[Any] = ["CPUExecutionProvider"]
        if name == "cuda":
            providers.insert(0, (PROVIDER, {"device_id": index, "arena_extend_strategy": "kSameAsRequested"}))
        try:
            session = self._ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise EngineError(f"ONNX Runtime {self._ort.__version__} cannot open {path}: {error}") from error
        if name == "cuda" and PROVIDER not in session.get_providers():
            raise EngineError(f"ONNX Runtime {self._ort.__version__} found no usable CUDA device: {_INSTALL}")
        return session


def is_cuda_installed() -> bool:
    """Whether the installed ONNX Runtime was built with CUDA."""
    try:
        return PROVIDER in _import_onnxruntime().get_available_providers()
    except MissingExtraError:
        return False


def _import_onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("scoring with ONNX Runtime on CUDA", "cuda") from error
