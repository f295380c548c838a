"""ONNX Runtime on the CPU: cache rows live in preallocated arrays, and the graph writes new rows behind them."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_runtime import native
from vprm_runtime.bundle import Bundle
from vprm_runtime.engines.base import Block, FloatArray, Int64Array, KVCache, kept_in_place
from vprm_runtime.errors import EngineError, MissingExtraError
from vprm_runtime.manifest import GraphInfo

_ONE_ROW: Int64Array = np.zeros(1, np.int64)


class OrtCache:
    """Cached rows [layers, 2, capacity, kv_width]; index 1 of axis 1 is key, value."""

    def __init__(self, layers: int, kv_width: int, dtype: np.dtype[Any], capacity_tokens: int) -> None:
        self.rows = np.empty((layers, 2, capacity_tokens, kv_width), dtype)
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
        """Forget all rows but these, which are ascending; row rows[i] becomes row i."""
        first = kept_in_place(rows, self._length)
        for part in self.rows.reshape(-1, *self.rows.shape[2:]):  # a layer's keys or values at a time
            part[first : len(rows)] = part[rows[first:]]
        self._length = len(rows)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more rows; copies when the capacity is too small."""
        layers, parts, capacity, width = self.rows.shape
        needed = self._length + tokens
        if needed > capacity:
            grown = np.empty((layers, parts, max(needed, capacity + capacity // 2), width), self.rows.dtype)
            grown[:, :, : self._length] = self.rows[:, :, : self._length]
            self.rows = grown

    def advance(self, tokens: int) -> None:
        """Count rows that the graph has written behind the cached ones."""
        self._length += tokens


class OrtEngine:
    """Engine over two ONNX Runtime sessions on the CPU."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._ort: Any = _import_onnxruntime()
        self._model = bundle.manifest.model
        self._graphs = bundle.manifest.graphs
        self._candidates = len(bundle.manifest.score_rule.candidates)
        self._dtype = np.dtype(self._graphs.llm.io_dtype)
        self._vision = self._open(bundle.vision_path, self._graphs.vision, threads)
        self._llm = self._open(bundle.llm_path, self._graphs.llm, threads)

    @property
    def description(self) -> str:
        """Library, version, device and precisions."""
        graphs = self._graphs
        return (
            f"ONNX Runtime {self._ort.__version__}, CPU, vision {graphs.vision.precision}, LLM {graphs.llm.precision}"
            + (f", attention {native.level().name}" if graphs.llm.is_native else "")
        )

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> FloatArray:
        """Image embeddings [T*tokens_per_tile, hidden], tile by tile: on a CPU batches gain nothing and cost memory."""
        embeds = [self._run_vision(tiles[i : i + 1]) for i in range(len(tiles))]
        return np.concatenate(embeds).astype(self._dtype, copy=False)

    def new_cache(self, capacity_tokens: int) -> OrtCache:
        """An empty cache for about `capacity_tokens` rows."""
        return OrtCache(self._model.layers, self._model.kv_width, self._dtype, capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Run the block; its new rows are written by the graph directly behind the cached ones."""
        if not isinstance(cache, OrtCache):
            raise TypeError(f"OrtEngine needs a cache from its own new_cache, got {type(cache).__name__}")
        new_tokens, past_tokens = len(block.input_ids), cache.length_tokens
        cache.reserve(new_tokens)
        positions = block.score_positions if len(block.score_positions) else _ONE_ROW  # the graph wants K >= 1
        logits = np.empty((len(positions), self._candidates), np.float32)
        binding = self._llm.io_binding()
        inputs = {
            "input_ids": block.input_ids,
            "image_embeds": block.image_embeds,
            "position_ids": block.position_ids,
            "attention_mask": block.attention_mask,
            "score_positions": positions,
        }
        outputs: dict[str, NDArray[Any]] = {"step_logits": logits}
        for layer in range(self._model.layers):
            for part, name in enumerate(("key", "value")):
                rows = cache.rows[layer, part]
                inputs[f"past.{layer}.{name}"] = rows[:past_tokens]
                outputs[f"new.{layer}.{name}"] = rows[past_tokens : past_tokens + new_tokens]
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            self._llm.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"the LLM graph failed on {new_tokens} tokens behind {past_tokens}: {error}") from error
        cache.advance(new_tokens)
        return logits[: len(block.score_positions)]

    def _run_vision(self, tiles: NDArray[np.uint8]) -> FloatArray:
        try:
            embeds: FloatArray = self._vision.run(None, {"tiles": tiles})[0]
        except Exception as error:
            raise EngineError(f"the vision graph failed on tiles {list(tiles.shape)}: {error}") from error
        return embeds

    def _open(self, path: Path, graph: GraphInfo, threads: int | None) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if graph.is_native:
            options.register_custom_ops_library(str(native.library_path()))
        try:
            return self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime {self._ort.__version__} cannot open {path}: {error}. "
                "Check the bundle with  vprm inspect --verify , or update onnxruntime"
            ) from error


def _import_onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("scoring on the CPU", "cpu") from error
