"""Statistics of every Linear's inputs, collected layer by layer.

Between layers the residual stream of every sequence lies on disk. Memory is one layer (its weights as stored and as
ONNX Runtime packs them), one sequence's activations and the statistics of four Linears: about 6 GB for the layers of an
8 B model in float32 and sequences of 4,000 tokens, most of it attention weights [heads, tokens, tokens]; second moments
are 0.1 GB of that, and the finished file, 2.1 GB, is in memory once when it is written. Disk is the
residual stream (tokens * hidden * 4 bytes a sequence, twice) and one layer's weights. A layer that is done is on disk
too: an interrupted run goes on after it.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_calibration.layer_graphs import LayeredGraph, opened_segment
from vprm_calibration.sequences import stored_sequences, with_context
from vprm_export.precision.calibration_file import TOKEN_PERCENTILES, LinearStatistics, hessian_block
from vprm_export.precision.gptq import TINY
from vprm_runtime.files import claim_parts, clear_parts, read_small, whole_file, write_whole
from vprm_runtime.strict_json import loads

Progress = Callable[[str, int, int], None]  # what, done, in all
SAMPLES = 96
OUTLIER_SAMPLES = 16  # of the samples: the tokens with the largest absmax
_SAMPLES_A_SEQUENCE = 8


@dataclass
class Accumulator:
    """Statistics of one Linear, sequence by sequence."""

    absmax: NDArray[np.float32] | None = None
    square_sum: NDArray[np.float64] | None = None
    hessian_sum: NDArray[np.float64] | None = None  # [blocks, b, b]
    tokens: int = 0
    token_absmax: list[NDArray[np.float32]] = field(default_factory=list)
    rows: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, values: NDArray[Any]) -> None:
        """Inputs of one sequence [tokens, in]."""
        inputs = values.astype(np.float32)
        absolute = np.abs(inputs)
        channels, squares = absolute.max(axis=0), np.square(inputs, dtype=np.float64).sum(axis=0)
        self.absmax = channels if self.absmax is None else np.maximum(self.absmax, channels)
        self.square_sum = squares if self.square_sum is None else self.square_sum + squares
        hessian = hessian_of(inputs).astype(np.float64) * len(inputs)
        self.hessian_sum = hessian if self.hessian_sum is None else self.hessian_sum + hessian
        by_token = absolute.max(axis=1)
        self.token_absmax.append(by_token)
        rng = np.random.default_rng(self.tokens)
        chosen = rng.choice(len(inputs), min(len(inputs), _SAMPLES_A_SEQUENCE), replace=False)
        self.rows.append(inputs[np.union1d(chosen, by_token.argmax())])
        self.tokens += len(inputs)

    def result(self) -> LinearStatistics:
        """Statistics of all sequences."""
        if self.absmax is None or self.square_sum is None or self.hessian_sum is None:
            raise ValueError("no sequence was added")
        rows = np.concatenate(self.rows)
        order = np.argsort(-np.abs(rows).max(axis=1), kind="stable")
        others = order[OUTLIER_SAMPLES:]
        step = max(1, len(others) // (SAMPLES - OUTLIER_SAMPLES))
        kept = np.concatenate([order[:OUTLIER_SAMPLES], others[::step]])[:SAMPLES]
        percentiles = np.percentile(np.concatenate(self.token_absmax), TOKEN_PERCENTILES)
        return LinearStatistics(
            self.absmax,
            (self.square_sum / self.tokens).astype(np.float32),
            percentiles.astype(np.float32),
            rows[kept],
            (self.hessian_sum / self.tokens).astype(np.float32),
        )


def hessian_of(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Second moments [blocks, b, b] of inputs [tokens, in], each token scaled to a mean square of 1."""
    size = np.sqrt(np.square(inputs).mean(axis=1, keepdims=True))
    unit = inputs / np.maximum(size, np.float32(TINY))
    blocks = unit.T.reshape(-1, hessian_block(inputs.shape[1]), len(inputs))  # [blocks, b, tokens]
    hessian: NDArray[np.float32] = blocks @ blocks.transpose(0, 2, 1) / np.float32(len(inputs))
    return hessian


def collect_statistics(layered: LayeredGraph, kv_width: int, work: Path, progress: Progress) -> dict[str, Path]:
    """Run all stored sequences through all layers that are not done yet; a file of statistics a layer."""
    sequences = stored_sequences(work)
    _embed(layered, kv_width, work, sequences)
    done: dict[str, Path] = {}
    for layer in range(layered.layers):
        file = work / f"layer-{layer:03d}.npz"
        if not file.exists():
            _layer(layered, kv_width, work, layer, file)
        progress("layers", layer + 1, layered.layers)
        done |= dict.fromkeys(layered.layer_linears(layer), file)
    return done


def read_statistics(file: Path, linear: str) -> LinearStatistics:
    """One Linear's statistics from a layer's file."""
    with np.load(file) as stored:
        return LinearStatistics.read(linear, stored.__getitem__)


def hidden_directory(work: Path, layer: int) -> Path:
    """Where the residual stream before a layer lies."""
    return work / f"hidden-{layer:03d}"


def _embed(layered: LayeredGraph, kv_width: int, work: Path, sequences: list[Path]) -> None:
    target = hidden_directory(work, 0)
    if target.exists() or (work / "layer-000.npz").exists():
        return
    temporary = work / "hidden-embedding"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    with opened_segment(layered, [], [layered.starts[0]], work) as segment:
        for sequence in sequences:
            (hidden,) = segment.run(_context(sequence, layered, kv_width))
            np.save(temporary / f"{sequence.stem}.npy", hidden)
    temporary.rename(target)


def _layer(layered: LayeredGraph, kv_width: int, work: Path, layer: int, file: Path) -> None:
    linears = layered.layer_linears(layer)
    taps = [layered.linears[linear][0].value for linear in linears]
    accumulators = {linear: Accumulator() for linear in linears}
    start, target = layered.starts[layer], hidden_directory(work, layer + 1)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with opened_segment(layered, [start], [layered.end(layer), *taps], work) as segment:
        for sequence in stored_sequences(work):
            hidden = np.load(hidden_directory(work, layer) / f"{sequence.stem}.npy")
            feeds = {**_context(sequence, layered, kv_width), str(start.name): hidden}
            after, *inputs = segment.run(feeds)
            np.save(target / f"{sequence.stem}.npy", after)
            for linear, values in zip(linears, inputs, strict=True):
                accumulators[linear].add(values)
    tensors: dict[str, NDArray[Any]] = {}
    for linear, accumulator in accumulators.items():
        tensors |= accumulator.result().tensors(linear)
    _save_whole(file, tensors)
    shutil.rmtree(hidden_directory(work, layer))


def _context(sequence: Path, layered: LayeredGraph, kv_width: int) -> dict[str, Any]:
    return with_context(load_arrays(sequence), layered.layers, kv_width, layered.dtype)


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file."""
    with np.load(file) as stored:
        return dict(stored)


def _save_whole(file: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    with whole_file(file) as temporary:
        np.savez(temporary, **tensors)  # type: ignore[arg-type]


def start_or_resume(work: Path, fingerprint: Mapping[str, Any]) -> bool:
    """Prepare the working directory; True if it holds an interrupted run of just this kind.

    Raises InputError if something else is at its path.
    """
    state = work / "state.json"
    claim_parts(work, "calibrate")
    with suppress(OSError, ValueError):  # not there, or damaged: begun anew
        if loads(read_small(state)) == dict(fingerprint):
            return True
    clear_parts(work, "calibrate")
    claim_parts(work, "calibrate")
    return False


def mark_started(work: Path, fingerprint: Mapping[str, Any]) -> None:
    """Note, once all sequences are stored, what this run is of."""
    write_whole(work / "state.json", json.dumps(dict(fingerprint)).encode())
