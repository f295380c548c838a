"""This package's engine protocol over `TorchGraph`: its graphs, cache and packing with PyTorch's kernels.

Not an engine that anybody deploys: it keeps PyTorch in the process. It shows what the graphs and the packing are worth
on a device that none of the deployable engines can use.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from vprm_benchmarks.gpu.torch_graph import TorchGraph
from vprm_runtime import Bundle
from vprm_runtime.engines.base import Block, CachedRows, FloatArray, Int64Array, KVCache, kept_in_place

_TILES_AT_ONCE = 13
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class TorchCache(CachedRows):
    """Cached rows [layers, 2, capacity, kv_width]; index 1 of axis 1 is key, value."""

    def __init__(self, layers: int, kv_width: int, dtype: torch.dtype, device: str, capacity_tokens: int) -> None:
        super().__init__()
        self.rows = torch.empty((layers, 2, capacity_tokens, kv_width), dtype=dtype, device=device)

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these, which are ascending; row rows[i] becomes row i."""
        first = kept_in_place(rows, self._length)
        chosen = torch.from_numpy(rows[first:]).to(self.rows.device)
        self.rows[:, :, first : len(rows)] = self.rows[:, :, chosen]
        self._length = len(rows)

    @property
    def capacity_tokens(self) -> int:
        """Number of rows that fit without a copy."""
        return self.rows.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory of the tensor: the capacity, not only the rows in use."""
        return self.rows.nbytes

    def trim(self) -> None:
        """Give memory beyond the cached rows back."""
        self.rows = self.rows[:, :, : self._length].clone()

    def release(self) -> None:
        """Give all memory back."""
        self._length = 0
        self.rows = self.rows[:, :, :0].clone()

    def append(self, rows: torch.Tensor) -> None:
        """Write new rows [layers, 2, S, kv_width] behind the cached ones; copies when the capacity is too small."""
        stop = self._length + rows.shape[2]
        if stop > self.rows.shape[2]:
            grown = self.rows.new_empty((*self.rows.shape[:2], stop + stop // 2, self.rows.shape[3]))
            grown[:, :, : self._length] = self.rows[:, :, : self._length]
            self.rows = grown
        self.rows[:, :, self._length : stop] = rows
        self.advance(rows.shape[2])


class TorchGraphEngine:
    """Engine over both graphs of a bundle."""

    max_block_tokens = 4096

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._model = bundle.manifest.model
        self._graphs = bundle.manifest.graphs
        self._dtype = _DTYPES[self._graphs.llm.io_dtype]
        self._device = device
        self._vision = TorchGraph(bundle.vision_path, device)
        self._llm = TorchGraph(bundle.llm_path, device)

    @property
    def description(self) -> str:
        """Library, version, device and precisions."""
        vision, llm = self._graphs.vision.precision, self._graphs.llm.precision
        return f"the bundle's graphs on PyTorch {torch.__version__}, {self._device}, vision {vision}, LLM {llm}"

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> FloatArray:
        """Image embeddings [T*tokens_per_tile, hidden], left on the device: a tensor that can be sliced by rows."""
        parts = [tiles[start : start + _TILES_AT_ONCE] for start in range(0, len(tiles), _TILES_AT_ONCE)]
        rows = [self._vision.run({"tiles": self._up(part)})["image_embeds"] for part in parts]
        return cast(FloatArray, torch.cat(rows).to(self._dtype))

    def new_cache(self, capacity_tokens: int) -> TorchCache:
        """An empty cache for about `capacity_tokens` rows."""
        return TorchCache(self._model.layers, self._model.kv_width, self._dtype, self._device, capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Run the block, append its rows to the cache; logits float32 [K, C]."""
        if not isinstance(cache, TorchCache):
            raise TypeError(f"TorchGraphEngine needs a cache from its own new_cache, got {type(cache).__name__}")
        past, scored = cache.length_tokens, len(block.score_positions)
        positions = block.score_positions if scored else np.zeros(1, np.int64)  # the graph wants K >= 1
        inputs = {
            "input_ids": self._up(block.input_ids),
            "image_embeds": self._up(block.image_embeds).to(self._dtype),
            "position_ids": self._up(block.position_ids),
            "attention_mask": self._up(block.attention_mask),
            "score_positions": self._up(positions),
        }
        names = [(f"{layer}.key", f"{layer}.value") for layer in range(self._model.layers)]
        for layer, pair in enumerate(names):
            inputs |= {f"past.{name}": cache.rows[layer, part, :past] for part, name in enumerate(pair)}
        outputs = self._llm.run(inputs)
        cache.append(torch.stack([torch.stack([outputs[f"new.{name}"] for name in pair]) for pair in names]))
        logits: NDArray[np.float32] = outputs["step_logits"].cpu().numpy()
        return logits[:scored]

    def close(self) -> None:
        """Give the graphs' memory back."""
        del self._vision, self._llm

    def synchronize(self) -> None:
        """Wait for all queued work: for measurements."""
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _up(self, array: Any) -> torch.Tensor:
        tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(self._device)
