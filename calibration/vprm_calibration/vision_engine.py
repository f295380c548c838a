"""An engine with a vision graph only: what makes token sequences of rows, without the LLM in memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.engines.base import Block, KVCache
from vprm_runtime.engines.host.onnxruntime import OrtGraph
from vprm_runtime.errors import EngineError


class VisionEngine:
    """Encodes tiles with a bundle's vision graph in ONNX Runtime; it cannot run blocks. Not safe for threads."""

    max_block_tokens = 512
    precisions = ("fp32", "fp32")
    description = "vision encoder only"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.manifest = bundle.manifest
        self._vision: OrtGraph | None = OrtGraph(bundle.path, bundle.manifest.graphs.vision, threads)
        self._dtype = np.dtype(bundle.manifest.graphs.llm.io_dtype)

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> NDArray[Any]:
        """Image embeddings [T*tokens_per_tile, hidden] of tiles uint8 [T, size, size, 3]."""
        vision = self._vision
        if vision is None:
            raise EngineError("the vision encoder is closed: open the bundle again")
        contiguous = np.ascontiguousarray(tiles)
        found = [vision.only_output({"tiles": contiguous[i : i + 1]}) for i in range(len(tiles))]
        return np.concatenate(found).astype(self._dtype, copy=False)

    def new_cache(self, capacity_tokens: int) -> KVCache:
        """There is none: raises EngineError."""
        raise EngineError("only the vision encoder is open here: no tokens can be run")

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Not possible: raises EngineError."""
        raise EngineError("only the vision encoder is open here: no tokens can be run")

    def synchronize(self) -> None:
        """Nothing is queued."""

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._vision is None

    def close(self) -> None:
        """Give the graph's memory back."""
        self._vision = None
