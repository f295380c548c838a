"""The engine over two graphs whose tensors are NumPy arrays, whichever library runs them.

`onnxruntime.py` and `openvino.py` have the libraries' graphs; the LLM graph writes new rows after the cached ones.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle.graph_io import cache_names
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines.base import Block, ImageRows, KVCache, check_image_rows, closed_error
from vprm_runtime.engines.host.cache import HostCache
from vprm_runtime.errors import EngineError
from vprm_runtime.machine import available_cores

Arrays = Mapping[str, NDArray[Any]]
MAX_BLOCK_TOKENS = 512


class HostGraph(Protocol):
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


class HostEngine:
    """Engine over two graphs on the CPU. Raises BundleError if their tensors are not the manifest's."""

    max_block_tokens = MAX_BLOCK_TOKENS

    def __init__(self, manifest: Manifest, vision: HostGraph, llm: HostGraph, threads: int | None = None) -> None:
        manifest.check_tensors(vision.tensors, llm.tensors)
        self._manifest = manifest
        self._graphs: tuple[HostGraph, HostGraph] | None = (vision, llm)
        self._dtype = np.dtype(manifest.graphs.llm.io_dtype)
        self.threads = threads or available_cores()
        self.description = _description(manifest, vision, llm)
        self.precisions = _precisions(manifest, vision, llm)

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> ImageRows:
        """Image embeddings [T*tokens_per_tile, hidden], tile by tile: on a CPU batches gain nothing and cost memory."""
        vision, _ = self._open_graphs()
        contiguous = np.ascontiguousarray(tiles)
        try:
            embeds = [vision.only_output({"tiles": contiguous[i : i + 1]}) for i in range(len(tiles))]
        except Exception as error:
            raise EngineError(f"the vision graph failed on tiles {list(tiles.shape)}: {error}") from error
        return np.concatenate(embeds).astype(self._dtype, copy=False)

    def new_cache(self, capacity_tokens: int) -> HostCache:
        """An empty cache for about `capacity_tokens` rows."""
        self._open_graphs()
        model = self._manifest.model
        return HostCache(model.layers, model.kv_width, self._dtype, capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Run the block; its new rows are written by the graph directly after the cached ones."""
        _, llm = self._open_graphs()
        if not isinstance(cache, HostCache):
            raise TypeError(f"{type(self).__name__} needs a cache from its own new_cache, got {type(cache).__name__}")
        check_image_rows(block, self._manifest.tokens.img_context, self._dtype)
        new_tokens, past_tokens = len(block.input_ids), cache.length_tokens
        cache.reserve(new_tokens)
        inputs = block.host_inputs()
        logits = np.empty((len(inputs["score_positions"]), len(self._manifest.score_rule.candidates)), np.float32)
        outputs: dict[str, NDArray[Any]] = {"step_logits": logits}
        for layer, part, past, new in cache_names(self._manifest.model.layers):
            rows = cache.rows[layer, part]
            inputs[past] = rows[:past_tokens]
            outputs[new] = rows[past_tokens : past_tokens + new_tokens]
        try:
            llm.run(inputs, outputs)
        except Exception as error:
            raise EngineError(f"the LLM graph failed on {new_tokens} tokens after {past_tokens}: {error}") from error
        cache.advance(new_tokens)
        return logits[: len(block.score_positions)]

    def synchronize(self) -> None:
        """Nothing is queued: every call returns when its work is done."""

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._graphs is None

    def close(self) -> None:
        """Give the graphs back to their library."""
        self._graphs = None

    def _open_graphs(self) -> tuple[HostGraph, HostGraph]:
        if self._graphs is None:
            raise closed_error()
        return self._graphs


def _description(manifest: Manifest, vision: HostGraph, llm: HostGraph) -> str:
    graphs = manifest.graphs
    if vision.library == llm.library:
        return f"{llm.library}, CPU, vision {graphs.vision.precision}, LLM {graphs.llm.precision}"
    return f"vision {graphs.vision.precision} in {vision.library}, LLM {graphs.llm.precision} in {llm.library}, CPU"


def _precisions(manifest: Manifest, vision: HostGraph, llm: HostGraph) -> tuple[str, str]:
    pairs = ((manifest.graphs.vision.precision, vision), (manifest.graphs.llm.precision, llm))
    first, second = ("bf16" if run.in_bf16 and stored in ("fp32", "fp16") else stored for stored, run in pairs)
    return first, second
