"""What a run will take: seconds, bytes of disk, bytes of memory, stage by stage, before anything is started.

Work is counted (multiplications, weights read and written) and divided by rates measured on this machine in about two
seconds: a float32 product, and writing to the disk. Estimates are for an idle machine. The constants below were fitted
to runs at VisualPRM-8B's layer shapes (docs/optimize.md has the figures).
"""

import io
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vprm_benchmarks.speed.bundle_times import ENOUGH_S, MOST_ROUNDS, STEP_TOKENS, STEPS, TILES
from vprm_export.architecture import Architecture
from vprm_optimize.meter import Meter
from vprm_optimize.recipes import Recipe
from vprm_optimize.selection import ChosenRows, RowSet, image_bytes
from vprm_runtime.bundle.manifest import Precision, TilingInfo
from vprm_runtime.datasets.row import Row
from vprm_runtime.images.tiling import tile_grid
from vprm_runtime.machine import available_cores

_PRODUCT_SIZE = 512  # below 2 ms: some of many run undisturbed, whatever else is at work
_PRODUCTS_S = 1.0
_DISK_BYTES = 64 << 20
_DISK_WRITES = 8
_MOST_SLOWDOWN = 20.0
_BUSY = 1.3  # slower than this beside other programs is said
_SAMPLED_ROWS = 12
_CHARACTERS_PER_TOKEN = 3.2
_TEMPLATE_TOKENS = 90
_TOKENS_PER_STEP = 12  # of the template
_START_S = 1.5  # of a process
_STORED_BYTES: dict[Precision, float] = {
    "fp32": 4, "fp16": 2, "bf16": 2, "int8": 1.003, "w8": 1.03, "w4": 0.62, "fp8": 1.001,
}  # fmt: skip
_EXPORT_NS: dict[Precision, float] = {
    "fp32": 0.8, "fp16": 1.6, "bf16": 0.8, "int8": 1.2, "w8": 2.0, "w4": 150.0, "fp8": 150.0,
}  # fmt: skip
"""Nanoseconds for each weight of a Linear beyond writing it, on a machine of REFERENCE_FLOPS; w4 and fp8 feed rounding
errors back column by column."""
_CALIBRATED_NS = 7.3  # choosing a Linear's smoothing
_BYTE_NS = 1.0  # hashing and writing a byte
_READ_NS = 0.5  # a byte of the checkpoint: half of what it takes from the disk, since it may have been read before
_OPEN_NS = 0.3  # mapping and touching a byte of a bundle that was just written
REFERENCE_FLOPS = 2.5e11
_REFERENCE_CORES = 2
_USUAL_DISK_BYTES = 1e9
_ENGINE_SHARE = 1.6  # of the measured product's rate, in float32 graphs: their products are larger
_SPEED_UP: dict[Precision, float] = {
    "fp32": 1, "fp16": 1, "bf16": 1.8, "int8": 2.8, "w8": 1.1, "w4": 1.1, "fp8": 0.4,
}  # fmt: skip
_NATIVE_SPEED_UP: dict[Precision, float] = {**_SPEED_UP, "int8": 4, "w8": 4, "w4": 4}  # the package's own operators
_BUILD_S, _BUILD_NS = 8.0, 7.0  # of both graphs; for each byte of the bundle
_CALIBRATION_FACTOR = 1.6  # second moments, and opening each layer


@dataclass(frozen=True)
class Rates:
    """Of this machine: float32 operations a second of a product, bytes a second of writing to disk.

    Both are of the best moments; `slowdown` is how many times as long work takes beside what other programs take of
    the processors now.
    """

    flops: float
    disk_bytes: float
    slowdown: float = 1.0

    def lines(self) -> list[str]:
        """What was measured, and what it means for estimates, for people."""
        measured = f"{self.flops / 1e9:.0f} GFLOP/s in float32, {self.disk_bytes / 1e6:.0f} MB/s to the disk"
        lines = [f"estimates are for this machine when it is idle ({measured})"]
        if self.slowdown > _BUSY:
            lines.append(f"other programs are at work: while they are, count on {self.slowdown:.1f} times as long")
        return lines


@dataclass(frozen=True)
class ModelSize:
    """Weights of a model's parts, by count."""

    linears: int  # of the LLM's layers
    layers: int
    hidden: int
    heads: int
    embeddings: int
    vision: int
    patches: int  # of a tile
    tokens_per_tile: int

    @staticmethod
    def of(architecture: Architecture) -> "ModelSize":
        """Counted from the configuration."""
        llm, vision = architecture.llm, architecture.vision
        attention = 2 * llm.hidden_size * (llm.heads + llm.kv_heads) * llm.head_dim
        return ModelSize(
            linears=llm.layers * (attention + 3 * llm.hidden_size * llm.mlp_size),
            layers=llm.layers,
            hidden=llm.hidden_size,
            heads=llm.heads,
            embeddings=llm.vocabulary * llm.hidden_size,
            vision=vision.layers * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.mlp_size),
            patches=vision.patches_per_side**2 + 1,
            tokens_per_tile=vision.tokens_per_tile,
        )

    @property
    def float32_bytes(self) -> int:
        """Of a float32 bundle."""
        return 4 * (self.linears + self.embeddings + self.vision)

    def bundle_bytes(self, recipe: Recipe) -> int:
        """Of a recipe's bundle."""
        embeddings = 4 if recipe.precision == "fp32" else 2
        kept = recipe.keep_high / (4 * self.layers)
        llm = _STORED_BYTES[recipe.precision] * (1 - kept) + 2 * kept
        return int(llm * self.linears + embeddings * self.embeddings + _STORED_BYTES[recipe.vision] * self.vision)


@dataclass(frozen=True)
class RowCost:
    """Means over rows: tiles, tokens that all responses share, tokens of all responses together, responses."""

    tiles: float
    prefix_tokens: float
    response_tokens: float
    responses: float


def usual_rates(cores: int) -> Rates:
    """What so many cores usually reach: decisions that rest on them do not change with what else a machine does."""
    return Rates(REFERENCE_FLOPS / _REFERENCE_CORES * cores, _USUAL_DISK_BYTES)


def measure_rates(folder: Path) -> Rates:
    """Measure this machine, in about two seconds; writes and removes a file in `folder`."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((_PRODUCT_SIZE, _PRODUCT_SIZE), np.float32) for _ in range(2))
    a @ b
    products: list[float] = []
    with Meter() as meter:
        while sum(products) < _PRODUCTS_S:
            products.append(_timed(lambda: a @ b))
    content = bytes(_DISK_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:

        def write() -> None:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

        disk_bytes = min(
            _DISK_BYTES / min(_timed(write) for _ in range(_DISK_WRITES)), _USUAL_DISK_BYTES
        )  # a burst is no rate
    others = (meter.usage.others_cpu_s or 0.0) / (available_cores() * meter.usage.seconds)
    slowdown = 1 / max(1 - others, 1 / _MOST_SLOWDOWN)
    return Rates(2 * _PRODUCT_SIZE**3 / min(products), disk_bytes, slowdown)


def _timed(call: object) -> float:
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return max(time.perf_counter() - started, 1e-9)


def row_cost(sets: tuple[RowSet, ...], tiling: TilingInfo, tokens_per_tile: int) -> RowCost:
    """Means over the first rows of each set, weighted by how many rows it has; tokens by the texts' lengths."""
    parts, weights = [], []
    for one in sets:
        sampled = []
        for row in ChosenRows((RowSet(one.file, one.image_root, one.numbers[:_SAMPLED_ROWS]),)):
            if isinstance(row, Row):
                sampled.append(_of_row(row, tiling, tokens_per_tile))
        if sampled:
            parts.append(np.mean(sampled, axis=0))
            weights.append(len(one.numbers))
    if not parts:
        return RowCost(1, 1000, 300, 1)
    mean = np.average(parts, axis=0, weights=weights)
    return RowCost(*(float(value) for value in mean))


def _of_row(row: Row, tiling: TilingInfo, tokens_per_tile: int) -> tuple[float, float, float, float]:
    tiles = 0
    for image in row.images:
        try:
            with Image.open(io.BytesIO(image_bytes(image))) as opened:
                columns, rows = tile_grid(*opened.size, tiling.limited(row.max_tiles))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # scoring will say what is wrong with it
        tiles += columns * rows + (tiling.use_thumbnail and columns * rows > 1)
    prefix = tiles * tokens_per_tile + len(row.question) / _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS
    tokens = 0.0
    for response in row.responses:
        steps = [response] if isinstance(response, str) else list(response)
        count = sum(step.count("\n\n") + 1 for step in steps)
        tokens += sum(len(step) for step in steps) / _CHARACTERS_PER_TOKEN + count * _TOKENS_PER_STEP
    return tiles, prefix, tokens, len(row.responses)


@dataclass(frozen=True)
class Estimator:
    """Estimates for one model on one machine."""

    model: ModelSize
    rates: Rates
    cores: int

    def export_s(self, recipe: Recipe) -> float:
        """Seconds of exporting a recipe's bundle."""
        scale = REFERENCE_FLOPS / self.rates.flops
        work_ns = _EXPORT_NS[recipe.precision] * self.model.linears + _EXPORT_NS[recipe.vision] * self.model.vision
        work_ns += _CALIBRATED_NS * self.model.linears if recipe.is_calibrated else 0
        size = self.model.bundle_bytes(recipe)
        work_ns += _BYTE_NS * size + _READ_NS * self.model.float32_bytes / 2
        return max(work_ns * 1e-9 * scale, size / self.rates.disk_bytes)  # at the same time

    def calibrate_s(self, rows: int, cost: RowCost, sensitivity: bool = False) -> float:
        """Seconds of calibrating on `rows`: up to two responses of each, in a pass of their own."""
        passes = min(2.0, cost.responses)
        tokens = passes * cost.prefix_tokens + cost.response_tokens * passes / max(cost.responses, 1)
        whole = self._layers_s(rows * tokens, cost.prefix_tokens) * _CALIBRATION_FACTOR + self._stream_s()
        alone = 8 * self._layers_s(tokens / passes, cost.prefix_tokens) * 2 * self.model.layers if sensitivity else 0
        return _START_S + rows * self._vision_s(cost) + whole + alone

    def reference_s(self, rows: int, cost: RowCost, batch_rows: int) -> float:
        """Seconds of the reference's step scores."""
        batches = -(-rows // batch_rows)
        return _START_S + batches * self._stream_s() + rows * self._row_s(cost, Recipe("fp32", "fp32"))

    def judge_s(self, rows: int, cost: RowCost, recipe: Recipe) -> float:
        """Seconds of a recipe's step scores."""
        opening_s = _OPEN_NS * 1e-9 * self.model.bundle_bytes(recipe)
        return _START_S + opening_s + rows * self._row_s(cost, recipe)

    def time_s(self, recipe: Recipe, responses: int) -> float:
        """Seconds of timing requests: 7 tiles, `responses` of 8 steps of 40 tokens."""
        prefix = TILES * self.model.tokens_per_tile + _TEMPLATE_TOKENS
        tokens = responses * STEPS * (STEP_TOKENS + _TOKENS_PER_STEP)
        request_s = self._row_s(RowCost(TILES, prefix, tokens, responses), recipe)
        rounds = min(MOST_ROUNDS + 1, math.ceil(ENOUGH_S / request_s))
        return _START_S + rounds * request_s

    def row_disk_bytes(self, cost: RowCost) -> int:
        """Disk that one row's activations take while the reference is computed."""
        tokens = cost.prefix_tokens + cost.response_tokens
        return int(3 * 4 * self.model.hidden * tokens + tokens * tokens / 8)

    def layer_memory_bytes(self, cost: RowCost, sequence: bool) -> int:
        """Memory of one layer's stage: weights twice, attention scores of a block or (`sequence`) of a whole pass."""
        layer = 4 * self.model.linears // self.model.layers
        tokens = cost.prefix_tokens + cost.response_tokens / max(cost.responses, 1)
        block = tokens if sequence else min(512.0, tokens)
        attention = 2 * 4 * self.model.heads * block * tokens
        return int(3 * layer + attention + 4 * self.model.embeddings / 4 + 4 * self.model.vision) + (300 << 20)

    def open_memory_bytes(self, recipe: Recipe) -> int:
        """Memory of an opened bundle and of scoring with it."""
        spare = 1 << 30 if self.model.linears > 1e9 else 300 << 20
        if recipe.layout == "tensorrt":  # on the CPU, weights become float16 when it is opened
            return 2 * (self.model.linears + self.model.vision) + spare
        factor = 2.0 if recipe.precision == "fp16" else 1.1  # computed in float32 on the CPU
        return int(factor * self.model.bundle_bytes(recipe)) + spare

    def device_memory_bytes(self, recipe: Recipe) -> int:
        """Memory of a GPU that an engine of the bundle and a request's cache take."""
        return self.model.bundle_bytes(recipe) + (2 << 30 if self.model.linears > 1e9 else 600 << 20)

    def build_s(self, bundle_bytes: int) -> float:
        """Seconds of building engines with TensorRT-RTX."""
        return _BUILD_S + _BUILD_NS * bundle_bytes * 1e-9 * REFERENCE_FLOPS / self.rates.flops

    def _row_s(self, cost: RowCost, recipe: Recipe) -> float:
        tokens = cost.prefix_tokens + cost.response_tokens
        speed_up = _NATIVE_SPEED_UP if recipe.layout == "cpu-native" else _SPEED_UP
        layers_s = self._layers_s(tokens, cost.prefix_tokens) / speed_up[recipe.precision]
        return layers_s + self._vision_s(cost) / speed_up[recipe.vision]

    def _layers_s(self, tokens: float, seen_tokens: float) -> float:
        products = 2 * self.model.linears * tokens
        attention = 4 * self.model.layers * self.model.hidden * tokens * (seen_tokens / 2 + 200)
        return (products + attention) / (_ENGINE_SHARE * self.rates.flops)

    def _vision_s(self, cost: RowCost) -> float:
        return 2 * self.model.vision * self.model.patches * cost.tiles * 1.3 / (_ENGINE_SHARE * self.rates.flops)

    def _stream_s(self) -> float:
        """One time through all layers' weights: read from disk, and laid out as the engine wants them."""
        return 4 * self.model.linears / self.rates.disk_bytes + 0.15 * self.model.layers
