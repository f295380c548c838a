"""The engine over compiled graphs on a device: prepares bindings, keeps the cache there, brings logits back.

encode_tiles: tiles -> device -> vision graph -> rows that stay on the device
forward:      block -> parts that fit a profile -> LLM graph, new rows written after the cached ones -> logits
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.bundle.graph_io import cache_names
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines.base import Block, ImageRows, KVCache, check_image_rows, closed_error
from vprm_runtime.engines.cuda.blocks import padded_block, split_block
from vprm_runtime.engines.cuda.cache import DeviceCache, rounded_capacity
from vprm_runtime.engines.cuda.limits import Limits, aligned, inputs_outputs_bytes
from vprm_runtime.engines.cuda.memory_budget import MemoryBudget
from vprm_runtime.engines.cuda.protocol import ALIGNMENT_BYTES, Binding, Buffer, Device, DeviceGraph, DeviceRows
from vprm_runtime.errors import EngineError, InputError


class DeviceEngine:
    """Engine over two compiled graphs on one device. `tensorrt.opening.open_tensorrt` and `onnxruntime.open_ort_cuda`
    make one from a bundle.

    Blocks are padded until cached and new tokens together are a multiple of `total_multiple`.
    """

    def __init__(
        self,
        manifest: Manifest,
        device: Device,
        vision: DeviceGraph,
        llm: DeviceGraph,
        budget: MemoryBudget,
        description: str,
        total_multiple: int = 1,
    ) -> None:
        self._manifest = manifest
        self._model = manifest.model
        self._device = device
        self._graphs: tuple[DeviceGraph, DeviceGraph] | None = (vision, llm)
        self._budget = budget
        self.description = description
        self._total_multiple = total_multiple
        self._candidates = len(manifest.score_rule.candidates)
        self._llm_dtype = np.dtype(manifest.graphs.llm.io_dtype)
        self._vision_dtype = np.dtype(manifest.graphs.vision.io_dtype)
        self._limits = Limits.of(vision.profiles, llm.profiles)
        self._buffers = {
            name: Buffer(device, size) for name, size in inputs_outputs_bytes(manifest, self._limits).items()
        }

    @property
    def precisions(self) -> tuple[str, str]:
        """Of the vision and the LLM graph, as in the bundle."""
        graphs = self._manifest.graphs
        return graphs.vision.precision, graphs.llm.precision

    @property
    def max_block_tokens(self) -> int:
        """Tokens that one run takes beside padding; longer blocks are cut."""
        return self._limits.tokens - (self._total_multiple - 1)

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> DeviceRows:
        """Image embeddings [T*tokens_per_tile, hidden], left on the device."""
        vision, _ = self._open_graphs()
        per_tile, width = self._model.tokens_per_tile, self._model.hidden_size
        row_bytes = width * self._vision_dtype.itemsize
        buffer = Buffer(self._device, len(tiles) * per_tile * row_bytes)
        for start in range(0, len(tiles), self._limits.tiles):
            chunk = np.ascontiguousarray(tiles[start : start + self._limits.tiles])
            source = self._upload("tiles", chunk)
            target = buffer.address + start * per_tile * row_bytes
            place = target if target % ALIGNMENT_BYTES == 0 else self._buffers["image_embeds"].address
            shape = (len(chunk) * per_tile, width)
            vision.run(0, {"tiles": Binding(source, chunk.shape), "image_embeds": Binding(place, shape)})
            if place != target:
                self._device.copy_on_device(target, place, shape[0] * row_bytes)
        rows = DeviceRows(self._device, buffer, buffer.address, (len(tiles) * per_tile, width), self._vision_dtype)
        if self._vision_dtype != self._llm_dtype:
            rows = self._rows_from_host(np.asarray(rows).astype(self._llm_dtype))
        return rows

    def new_cache(self, capacity_tokens: int) -> DeviceCache:
        """An empty cache for about `capacity_tokens` rows. Raises InputError if that does not fit."""
        self._open_graphs()
        self._budget.check_cache(rounded_capacity(capacity_tokens), self._device.free_bytes())
        row_bytes = self._model.kv_width * self._llm_dtype.itemsize
        return DeviceCache(self._device, self._model.layers, row_bytes, capacity_tokens)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Run the block, in parts if it is longer than the profile; on an error the cache is as before."""
        _, llm = self._open_graphs()
        if not isinstance(cache, DeviceCache):
            raise TypeError(f"DeviceEngine needs a cache from its own new_cache, got {type(cache).__name__}")
        image_token = self._manifest.tokens.img_context
        check_image_rows(block, image_token, self._llm_dtype)
        past, new = cache.length_tokens, len(block.input_ids)
        if past + new > self._limits.past + self.max_block_tokens:
            raise InputError(
                f"{past + new:,} tokens are too many for this engine: its profile has {self._limits.past:,} cached and "
                f"{self.max_block_tokens:,} new ones. Shorten the input, or build with a larger --profile, "
                f"e.g. past=0:{self._limits.past}:{past + new}"
            )
        self._reserve(cache, new + self._total_multiple - 1)
        logits = []
        try:
            for part in split_block(block, self.max_block_tokens, self._limits.scores, image_token):
                logits.append(self._run(llm, part, cache))
        except Exception:
            cache.truncate(past)
            raise
        return np.concatenate(logits)

    def synchronize(self) -> None:
        """Wait for all queued work: for measurements."""
        self._device.synchronize()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._graphs is None

    def close(self) -> None:
        """Give the buffers and the graphs' memory back to the device. Caches and image rows keep theirs."""
        self._graphs = None
        for buffer in self._buffers.values():
            buffer.release()
        self._device.make_current()
        self._device.trim()

    def _open_graphs(self) -> tuple[DeviceGraph, DeviceGraph]:
        """The graphs, with this thread's calls going to their device. Raises EngineError if the engine is closed."""
        if self._graphs is None:
            raise closed_error()
        self._device.make_current()
        return self._graphs

    def _reserve(self, cache: DeviceCache, tokens: int) -> None:
        capacity = cache.capacity_for(tokens)
        if capacity != cache.capacity_tokens:
            self._budget.check_cache(capacity, self._device.free_bytes())
            cache.resize(capacity)

    def _run(self, llm: DeviceGraph, block: Block, cache: DeviceCache) -> NDArray[np.float32]:
        """One run of the LLM graph; logits float32 [K, C]."""
        tokens, past = len(block.input_ids), cache.length_tokens
        block = padded_block(block, self._total_multiple, self._manifest.tokens.im_end)
        new = len(block.input_ids)
        if past > self._limits.past:
            raise InputError(
                f"{past:,} cached tokens are too many for this engine, its profile has {self._limits.past:,}: "
                f"build with a larger --profile, e.g. past=0:{self._limits.past}:{past}"
            )
        bindings = {
            name: Binding(self._address(name, values), tuple(values.shape)) for name, values in block.inputs().items()
        }
        logits_shape = (len(block.graph_score_positions), self._candidates)
        bindings["step_logits"] = Binding(self._buffers["step_logits"].address, logits_shape)
        staged = not cache.new_rows_aligned
        bindings |= self._cache_bindings(cache, new, staged)
        llm.run(0 if past == 0 else len(llm.profiles) - 1, bindings)  # the prefix profile, or the suffix profile
        if staged:
            self._append_staged(cache, bindings, tokens)
        cache.advance(tokens)
        if not len(block.score_positions):
            return np.empty((0, self._candidates), np.float32)
        logits = np.empty(logits_shape, np.float32)
        self._device.copy_to_host(logits, bindings["step_logits"].address)
        return logits

    def _cache_bindings(self, cache: DeviceCache, new: int, staged: bool) -> dict[str, Binding]:
        width, past = self._model.kv_width, cache.length_tokens
        staging = self._buffers["new_rows"].address
        part_bytes = aligned(new * width * self._llm_dtype.itemsize)
        bindings = {}
        for layer, part, past_name, new_name in cache_names(self._model.layers):
            place = staging + (layer * 2 + part) * part_bytes if staged else cache.new_address(layer, part)
            bindings[past_name] = Binding(cache.past_address(layer, part), (past, width))
            bindings[new_name] = Binding(place, (new, width))
        return bindings

    def _append_staged(self, cache: DeviceCache, bindings: Mapping[str, Binding], tokens: int) -> None:
        """Copy new rows after the cached ones if the graph could not write them there: narrow rows only."""
        size_bytes = tokens * self._model.kv_width * self._llm_dtype.itemsize
        for layer, part, _, new_name in cache_names(self._model.layers):
            self._device.copy_on_device(cache.new_address(layer, part), bindings[new_name].address, size_bytes)

    def _upload(self, name: str, array: NDArray[Any]) -> int:
        buffer = self._buffers[name]
        contiguous = np.ascontiguousarray(array)
        if contiguous.nbytes > buffer.size_bytes:
            raise EngineError(
                f"{name} of shape {list(array.shape)} is larger than the engine's profile allows "
                f"({contiguous.nbytes:,} of {buffer.size_bytes:,} bytes): build with a larger --profile"
            )
        if contiguous.nbytes:
            self._device.copy_to_device(buffer.address, contiguous)
        return buffer.address

    def _address(self, name: str, values: ImageRows) -> int:
        """Where an input is, aligned: in place if it is on this device already, else in its staging buffer.

        Rows of another `Device` come over the host, even if it is the same card: its stream may still write them.
        """
        if not isinstance(values, DeviceRows) or values.device is not self._device:
            return self._upload(name, np.asarray(values))
        staging = self._buffers[name].address
        if len(values) and values.address % ALIGNMENT_BYTES:
            self._device.copy_on_device(staging, values.address, len(values) * values.row_bytes)
            return staging
        return values.address if len(values) else staging

    def _rows_from_host(self, rows: NDArray[Any]) -> DeviceRows:
        buffer = Buffer(self._device, rows.nbytes)
        self._device.copy_to_device(buffer.address, rows)
        return DeviceRows(self._device, buffer, buffer.address, (rows.shape[0], rows.shape[1]), rows.dtype)
