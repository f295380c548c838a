"""Step scores of a floating-point bundle, computed layer by layer: memory is one layer, whatever the model's size.

    Recorder    stands in for an engine while rows are scored: it notes which blocks are run after which cached rows
    run_layers  runs the noted blocks of all rows through one layer after the other; activations lie on disk
    Player      stands in for an engine once more: it answers with the logits that came out

So prompts, packing and scores are the runtime's own, and equal what the bundle gives when it is opened whole.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_calibration.layer_graphs import LayeredGraph, Segment, opened_segment
from vprm_calibration.vision_engine import VisionEngine
from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.engines.base import Block, CachedRows, Int64Array, KVCache
from vprm_runtime.errors import EngineError

Progress = Callable[[int, int], None]
Array = NDArray[Any]


class NotedCache(CachedRows):
    """No rows, only how many there are; what is done to them goes into a list of steps."""

    def __init__(self, steps: list["Step"]) -> None:
        super().__init__()
        self._steps = steps

    def truncate(self, length_tokens: int) -> None:
        """Forget all rows from `length_tokens` on."""
        if length_tokens != self._length:
            super().truncate(length_tokens)
            self._steps.append(Step(kept=np.arange(length_tokens)))

    def keep(self, rows: Int64Array) -> None:
        """Forget all rows but these."""
        self._length = len(rows)
        self._steps.append(Step(kept=rows.copy()))

    @property
    def capacity_tokens(self) -> int:
        """The rows in use: there is nothing to give back."""
        return self._length

    @property
    def nbytes(self) -> int:
        """No memory."""
        return 0

    def trim(self) -> None:
        """Nothing to give back."""

    def release(self) -> None:
        """Forget all rows; nothing is run after them."""
        self._length = 0


@dataclass(frozen=True)
class Step:
    """A block that is run, or else the cached rows that are kept."""

    block: Block | None = None
    kept: Int64Array | None = None


class Recorder(VisionEngine):
    """Encodes tiles with the bundle's vision graph and notes blocks. Its logits are zeros and mean nothing."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        super().__init__(bundle, threads)
        self.steps: list[Step] = []

    def new_cache(self, capacity_tokens: int) -> NotedCache:
        """A cache without rows."""
        return NotedCache(self.steps)

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """Note the block."""
        _noted(cache).advance(len(block.input_ids))
        self.steps.append(Step(block=block))
        return np.zeros((len(block.score_positions), len(self.manifest.score_rule.candidates)), np.float32)


class Player:
    """Answers a row's blocks, in order, with logits that were computed before."""

    max_block_tokens = Recorder.max_block_tokens
    precisions = Recorder.precisions
    description = "layer by layer"

    def __init__(self, manifest: Manifest, logits: Sequence[NDArray[np.float32]]) -> None:
        self._model = manifest.model
        self._logits = iter(logits)

    def encode_tiles(self, tiles: NDArray[np.uint8]) -> Array:
        """Zeros of the right shape: the logits know the image already."""
        return np.zeros((len(tiles) * self._model.tokens_per_tile, self._model.hidden_size), np.float32)

    def new_cache(self, capacity_tokens: int) -> NotedCache:
        """A cache without rows."""
        return NotedCache([])

    def forward(self, block: Block, cache: KVCache) -> NDArray[np.float32]:
        """The next block's logits. Raises EngineError if they are not this block's."""
        _noted(cache).advance(len(block.input_ids))
        found = next(self._logits, None)
        if found is None or len(found) != len(block.score_positions):
            raise EngineError("the blocks differ from those that were noted: the rows changed meanwhile; begin anew")
        return found

    def synchronize(self) -> None:
        """Nothing is queued."""

    @property
    def is_closed(self) -> bool:
        """Never: there is nothing to close."""
        return False

    def close(self) -> None:
        """Nothing to close."""


def _noted(cache: KVCache) -> NotedCache:
    if not isinstance(cache, NotedCache):
        raise TypeError(f"a cache of new_cache is needed, got {type(cache).__name__}")
    return cache


def store_steps(file: Path, steps: Sequence[Step]) -> None:
    """Keep a row's steps; masks are packed to bits."""
    tensors: dict[str, Array] = {}
    for number, step in enumerate(steps):
        if step.block is not None:
            block = step.block
            tensors |= {
                f"{number}.input_ids": block.input_ids,
                f"{number}.image_embeds": np.asarray(block.image_embeds),
                f"{number}.position_ids": block.position_ids,
                f"{number}.score_positions": block.score_positions,
                f"{number}.mask": np.packbits(block.attention_mask, axis=1),
            }
        elif step.kept is not None:
            tensors[f"{number}.kept"] = step.kept
    np.savez(file, **tensors)  # type: ignore[arg-type]


def load_steps(file: Path) -> list[Step]:
    """Steps as `store_steps` kept them."""
    with np.load(file) as stored:
        found = dict(stored)
    steps = []
    for number in sorted({int(name.split(".")[0]) for name in found}):
        if f"{number}.kept" in found:
            steps.append(Step(kept=found[f"{number}.kept"]))
            continue
        ids, positions, embeds, scored, packed = (
            found[f"{number}.{name}"]
            for name in ("input_ids", "position_ids", "image_embeds", "score_positions", "mask")
        )
        mask = np.unpackbits(packed, axis=1).astype(np.bool_)  # columns beyond the rows are cut off where it is used
        steps.append(Step(block=Block(ids, embeds, positions, mask, scored)))
    return steps


def run_layers(bundle: Bundle, work: Path, rows: Sequence[str], progress: Progress) -> None:
    """Run the steps of all rows, `work/ROW.steps.npz`, through every layer; logits are in `work/ROW.logits.npz` then.

    A layer that is done stays done: state.json says which is next.
    """
    layered = LayeredGraph(bundle)
    model = bundle.manifest.model
    state = work / "layer.json"
    done = json.loads(state.read_text("ascii")) if state.exists() else -1
    if done < 0:
        with opened_segment(layered, [], [layered.starts[0]], work) as segment:
            for row in rows:
                _save(work / f"{row}.hidden-0.npz", list(_embedded(segment, work, row, model.layers, model.kv_width)))
        done = _mark(state, 0)
    for layer in range(done, model.layers):
        name = f"new.{layer}"
        outputs = {value.name: value for value in layered.graph.outputs}
        wanted = [layered.end(layer), outputs[f"{name}.key"], outputs[f"{name}.value"]]
        with opened_segment(layered, [layered.starts[layer]], wanted, work) as segment:
            for row in rows:
                hidden = _load(work / f"{row}.hidden-{layer}.npz")
                after = _layer(segment, load_steps(work / f"{row}.steps.npz"), hidden, layered, layer, model.kv_width)
                _save(work / f"{row}.hidden-{layer + 1}.npz", after)
        _mark(state, layer + 1)
        for row in rows:
            (work / f"{row}.hidden-{layer}.npz").unlink(missing_ok=True)
        progress(layer + 1, model.layers)
    for row in rows:
        last = work / f"{row}.hidden-{model.layers}.npz"
        if last.exists():
            last.rename(work / f"{row}.logits.npz")


def logits_of(work: Path, row: str) -> list[NDArray[np.float32]]:
    """Logits [K, C] of each block of a row, after `run_layers`."""
    blocks = [step.block for step in load_steps(work / f"{row}.steps.npz") if step.block is not None]
    found = _load(work / f"{row}.logits.npz")
    return [values[: len(block.score_positions)] for block, values in zip(blocks, found, strict=True)]


def _embedded(segment: Segment, work: Path, row: str, layers: int, kv_width: int) -> Iterator[Array]:
    for step in load_steps(work / f"{row}.steps.npz"):
        if step.block is not None:
            yield segment.run(_feeds(step.block, 0, _no_past(layers, kv_width, step.block.image_embeds.dtype)))[0]


def _layer(
    segment: Segment, steps: Sequence[Step], hidden: Sequence[Array], layered: LayeredGraph, layer: int, kv_width: int
) -> list[Array]:
    """Residual streams [S, hidden] of a row's blocks after a layer; logits [K, C] after the last."""
    keys = values = np.zeros((0, kv_width), layered.dtype)
    no_past = _no_past(layered.layers, kv_width, layered.dtype)
    before = iter(hidden)
    after = []
    for step in steps:
        if step.block is None:
            keys, values = keys[step.kept], values[step.kept]
            continue
        past = {**no_past, f"past.{layer}.key": keys, f"past.{layer}.value": values}
        feeds = {**_feeds(step.block, len(keys), past), str(layered.starts[layer].name): next(before)}
        stream, new_keys, new_values = segment.run(feeds)
        keys, values = np.concatenate([keys, new_keys]), np.concatenate([values, new_values])
        after.append(stream)
    return after


def _no_past(layers: int, kv_width: int, dtype: Any) -> dict[str, Array]:
    """No cached rows for any layer: a segment lists all layers' rows as inputs, and reads its own."""
    empty = np.zeros((0, kv_width), dtype)
    return {f"past.{layer}.{part}": empty for layer in range(layers) for part in ("key", "value")}


def _feeds(block: Block, past_tokens: int, past: dict[str, Array]) -> dict[str, Array]:
    return {
        "input_ids": block.input_ids,
        "image_embeds": np.asarray(block.image_embeds),
        "position_ids": block.position_ids,
        "attention_mask": np.ascontiguousarray(block.attention_mask[:, : past_tokens + len(block.input_ids)]),
        "score_positions": block.graph_score_positions,
        **past,
    }


def _save(file: Path, arrays: Sequence[Array]) -> None:
    temporary = file.with_name(f".{file.name}")
    np.savez(temporary, *arrays)
    temporary.rename(file)


def _load(file: Path) -> list[Array]:
    with np.load(file) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]


def _mark(state: Path, done: int) -> int:
    temporary = state.with_suffix(".tmp")
    temporary.write_text(json.dumps(done), "ascii")
    temporary.rename(state)
    return done


def forget(work: Path) -> None:
    """Give the disk of a batch of rows back."""
    shutil.rmtree(work, ignore_errors=True)
