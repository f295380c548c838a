"""Engines on the CPU: cache rows live in preallocated arrays, and the LLM graph writes new rows behind them.

CpuEngine   the two graphs of a bundle, each run by a library (a `Graph`): tiles, cache, blocks
OrtGraph    a graph run by ONNX Runtime; `openvino.py` has another
OrtEngine   both graphs in ONNX Runtime
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_runtime import native
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import GraphInfo, Manifest
from vprm_runtime.engines.base import Block, CachedRows, FloatArray, Int64Array, KVCache, kept_in_place
from vprm_runtime.errors import EngineError, MissingExtraError

Arrays = Mapping[str, NDArray[Any]]
_ONE_ROW: Int64Array = np.zeros(1, np.int64)


class OrtCache(CachedRows):
    """Cached rows [layers, 2, capacity, kv_width]; index 1 of axis 1 is key, value."""

    def __init__(self, layers: int, kv_width: int, dtype: np.dtype[Any], capacity_tokens: int) -> None:
        super().__init__()
        self.rows = np.empty((layers, 2, capacity_tokens, kv_width), dtype)

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these, which are ascending; row rows[i] becomes row i."""
        first = kept_in_place(rows, self._length)
        for part in self.rows.reshape(-1, *self.rows.shape[2:]):  # a layer's keys or values at a time
            part[first : len(rows)] = part[rows[first:]]
        self._length = len(rows)

    @property
    def capacity_tokens(self) -> int:
        """Number of rows that fit without a copy."""
        return int(self.rows.shape[2])

    @property
    def nbytes(self) -> int:
        """Memory of the arrays: the capacity, not only the rows in use."""
        return self.rows.nbytes

    def trim(self) -> None:
        """Give memory beyond the cached rows back."""
        if self.rows.shape[2] > self._length:
            self.rows = self.rows[:, :, : self._length].copy()

    def release(self) -> None:
        """Give all memory back."""
        self._length = 0
        self.rows = self.rows[:, :, :0].copy()

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more rows; copies when the capacity is too small."""
        layers, parts, capacity, width = self.rows.shape
        needed = self._length + tokens
        if needed > capacity:
            grown = np.empty((layers, parts, max(needed, capacity + capacity // 2), width), self.rows.dtype)
            grown[:, :, : self._length] = self.rows[:, :, : self._length]
            self.rows = grown


class Graph(Protocol):
    """One graph in one library. Arrays are C-contiguous and stay where they are: nothing is copied."""

    @property
    def library(self) -> str:
        """Library, version and what else decides numbers, for people."""
        ...

    @property
    def in_bf16(self) -> bool:
        """Whether float32 and float16 products are computed in bfloat16."""
        ...

    @property
    def tensors(self) -> list[str]:
        """Names of inputs and outputs."""
        ...

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Fill all `outputs`, which have exactly the graph's shapes for these inputs."""
        ...

    def only_output(self, inputs: Arrays) -> NDArray[Any]:
        """The output of a graph that has one, in an array of its own."""
        ...


class CpuEngine:
    """Engine over two graphs whose tensors are NumPy arrays. Raises BundleError where they are not the manifest's."""

    def __init__(self, manifest: Manifest, vision: Graph, llm: Graph) -> None:
        manifest.check_tensors(vision.tensors, llm.tensors)
        self._manifest = manifest
        self._vision = vision
        self._llm = llm
        self._dtype = np.dtype(manifest.graphs.llm.io_dtype)

    @property
    def description(self) -> str:
        """Libraries, versions, device and precisions."""
        graphs, vision, llm = self._manifest.graphs, self._vision.library, self._llm.library
        if vision == llm:
            return f"{llm}, CPU, vision {graphs.vision.precision}, LLM {graphs.llm.precision}"
        return f"vision {graphs.vision.precision} in {vision}, LLM {graphs.llm.precision} in {llm}, CPU"

    @property
    def precisions(self) -> tuple[str, str]:
        """What the vision and the LLM graph compute in: the bundle's precision, or "bf16" where that is coarser."""
        graphs = self._manifest.graphs
        pairs = ((graphs.vision.precision, self._vision), (graphs.llm.precision, self._llm))
        vision, llm = ("bf16" if run.in_bf16 and stored in ("fp32", "fp16") else stored for stored, run in pairs)
        return vision, llm

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> FloatArray:
        """Image embeddings [T*tokens_per_tile, hidden], tile by tile: on a CPU batches gain nothing and cost memory."""
        contiguous = np.ascontiguousarray(tiles)
        try:
            embeds = [self._vision.only_output({"tiles": contiguous[i : i + 1]}) for i in range(len(tiles))]
        except Exception as error:
            raise EngineError(f"the vision graph failed on tiles {list(tiles.shape)}: {error}") from error
        return np.concatenate(embeds).astype(self._dtype, copy=False)

    def new_cache(self, capacity_tokens: int) -> OrtCache:
        """An empty cache for about `capacity_tokens` rows."""
        model = self._manifest.model
        return OrtCache(model.layers, model.kv_width, self._dtype, capacity_tokens)

    def close(self) -> None:
        """Give the graphs back to their library."""
        del self._vision, self._llm

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Run the block; its new rows are written by the graph directly behind the cached ones."""
        if not isinstance(cache, OrtCache):
            raise TypeError(f"{type(self).__name__} needs a cache from its own new_cache, got {type(cache).__name__}")
        new_tokens, past_tokens = len(block.input_ids), cache.length_tokens
        cache.reserve(new_tokens)
        positions = block.score_positions if len(block.score_positions) else _ONE_ROW  # the graph wants K >= 1
        logits = np.empty((len(positions), len(self._manifest.score_rule.candidates)), np.float32)
        inputs = {
            "input_ids": block.input_ids,
            "image_embeds": block.image_embeds,
            "position_ids": block.position_ids,
            "attention_mask": block.attention_mask,
            "score_positions": positions,
        }
        outputs: dict[str, NDArray[Any]] = {"step_logits": logits}
        for layer in range(self._manifest.model.layers):
            for part, name in enumerate(("key", "value")):
                rows = cache.rows[layer, part]
                inputs[f"past.{layer}.{name}"] = rows[:past_tokens]
                outputs[f"new.{layer}.{name}"] = rows[past_tokens : past_tokens + new_tokens]
        try:
            self._llm.run(inputs, outputs)
        except Exception as error:
            raise EngineError(f"the LLM graph failed on {new_tokens} tokens behind {past_tokens}: {error}") from error
        cache.advance(new_tokens)
        return logits[: len(block.score_positions)]


class OrtGraph:
    """A graph run by ONNX Runtime on the CPU. Raises MissingExtraError or EngineError where it cannot be opened."""

    in_bf16 = False

    def __init__(self, directory: Path, graph: GraphInfo, threads: int | None = None) -> None:
        self._ort: Any = import_onnxruntime("scoring on the CPU", "cpu")
        self._is_native = graph.is_native
        self._session = self._open(directory / graph.file, threads)

    @property
    def library(self) -> str:
        """Library and version, and what the native operator uses."""
        own = f" with {native.level().name} attention" if self._is_native else ""
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
        if threads is not None:
            options.intra_op_num_threads = threads
        if self._is_native:
            options.register_custom_ops_library(str(native.library_path()))
        try:
            return self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime {self._ort.__version__} cannot open {path}: {error}. "
                f"Check the bundle with  vprm inspect {path.parent} --verify , or update onnxruntime"
            ) from error


class OrtEngine(CpuEngine):
    """Both graphs in ONNX Runtime on the CPU."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        graphs = bundle.manifest.graphs
        vision, llm = (OrtGraph(bundle.path, graph, threads) for graph in (graphs.vision, graphs.llm))
        super().__init__(bundle.manifest, vision, llm)


def import_onnxruntime(need: str, extra: str) -> Any:
    """The module. Raises MissingExtraError where it is not installed."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(need, extra) from error
