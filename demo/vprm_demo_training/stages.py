"""The training run: a vision stage, a stage of single statements, a stage of whole solutions.

A run is a folder with `state.pt` (model, heads, optimiser, place in the run), written every few minutes, and
`train.log`; starting the same command again takes it up from there. A stage ends after its number of rows or its
minutes, whichever comes first: on two CPU cores the minutes count, on a GPU the rows.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from .language_data import Batch, Mixture, language_chunk
from .losses import LossWeights, Tensors, TrainingHeads, language_loss
from .model import DemoPrm
from .optim import Optimisers
from .prompt import Tokenizer
from .vision_data import vision_batch

Item = TypeVar("Item")

SAVE_SECONDS = 150
LOG_STEPS = 50


@dataclass(frozen=True)
class Stage:
    """A part of the run. `replay` is the chance that a step reuses an earlier batch instead of a fresh one."""

    name: str
    rows: int
    minutes: float
    peak_lr: float
    floor: float
    rows_per_batch: int = 32
    replay: float = 0.4
    warmup: float = 0.03
    mixture: Mixture | None = None
    weights: LossWeights = field(default_factory=LossWeights)


STAGES = (
    Stage("vision", rows=160_000, minutes=27, peak_lr=3e-3, floor=0.2),
    Stage(
        "statements", rows=130_000, minutes=28, peak_lr=2e-3, floor=0.4, mixture=Mixture(solutions=0.15, shape="tile")
    ),
    Stage(
        "solutions", rows=110_000, minutes=29, peak_lr=1.2e-3, floor=0.02, mixture=Mixture(solutions=0.7, shape="mixed")
    ),
)


def replayed(fresh: Iterator[Item], chance: float, memory: int) -> Iterator[Item]:
    """Items of `fresh`, mixed with earlier ones (the last `memory`) with the given chance."""
    store: list[Item] = []
    choice = random.Random(0)
    while True:
        if len(store) > memory // 8 and choice.random() < chance:
            yield choice.choice(store)
            continue
        item = next(fresh)
        store.append(item)
        if len(store) > memory:
            store.pop(0)
        yield item


class Run:
    """A training run in a folder."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, model: DemoPrm, device: torch.device, executor: Executor
    ) -> None:
        self.folder, self.tokenizer, self.device, self.executor = folder, tokenizer, device, executor
        self.model = model.to(device)
        self.heads = TrainingHeads(model.config).to(device)
        self.stage_index = 0
        self.rows = 0
        self.seconds = 0.0
        self.total_seconds = 0.0
        self.seed = 0
        self._pending_optimiser: list[dict[str, object]] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.pt").exists():
            self._load()

    def log(self, text: str) -> None:
        """A line in the log and on the terminal."""
        line = f"[{self.total_seconds / 60:6.1f} min] {text}"
        sys.stderr.write(line + "\n")
        with (self.folder / "train.log").open("a", encoding="utf-8") as out:
            out.write(line + "\n")

    def save(self, optimisers: Optimisers | None) -> None:
        """Write the state, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": optimisers.state_dict() if optimisers else None,
            "place": (self.stage_index, self.rows, self.seconds, self.total_seconds, self.seed),
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self._pending_optimiser = state["optimisers"]
        self.stage_index, self.rows, self.seconds, self.total_seconds, self.seed = state["place"]
        self.log("resumed")

    def train(self, stages: tuple[Stage, ...]) -> None:
        """Run the stages that are left."""
        while self.stage_index < len(stages):
            self._run_stage(stages[self.stage_index])
            self.stage_index += 1
            self.rows, self.seconds = 0, 0.0
            self.save(None)

    def _run_stage(self, stage: Stage) -> None:
        vision_only = stage.mixture is None
        modules: list[torch.nn.Module]
        if vision_only:
            projector = torch.nn.ModuleDict({"layers": self.model.mlp1})
            modules = [self.model.vision_model, projector, self.heads.dense]
        else:
            modules = [self.model, self.heads]
        optimisers = Optimisers(modules, stage.peak_lr)
        if self._pending_optimiser is not None:
            optimisers.load_state_dict(self._pending_optimiser)
            self._pending_optimiser = None
        self.log(f"stage {stage}")
        step_of = self._vision_steps(stage) if vision_only else self._language_steps(stage)
        self._loop(stage, optimisers, step_of)

    def _loop(
        self, stage: Stage, optimisers: Optimisers, losses: Iterator[tuple[Tensor, dict[str, float], int]]
    ) -> None:
        averages: dict[str, float] = {}
        steps, saved, last = 0, time.monotonic(), time.monotonic()
        while True:
            progress = max(self.rows / stage.rows, self.seconds / (60 * stage.minutes))
            if progress >= 1:
                return
            rate = optimisers.set_progress(progress, stage.warmup, stage.floor)
            loss, measures, n_rows = next(losses)
            loss.backward()  # type: ignore[no-untyped-call]
            optimisers.step()
            now = time.monotonic()
            self.seconds, self.total_seconds, last = self.seconds + now - last, self.total_seconds + now - last, now
            self.rows += n_rows
            steps += 1
            for name, value in measures.items():
                if value == value:
                    averages[name] = averages.get(name, value) * 0.97 + value * 0.03
            if steps % LOG_STEPS == 0:
                shown = " ".join(f"{name} {value:.3f}" for name, value in averages.items())
                self.log(f"{stage.name} rows {self.rows} lr {rate:.2e} {self.rows / self.seconds:.0f} rows/s {shown}")
            if now - saved > SAVE_SECONDS:
                self.save(optimisers)
                saved = now

    def _generated(self, submit: Callable[[int], Future[Item]], at_once: int) -> Iterator[Item]:
        """Results for ever new seeds, `at_once` made together while training waits: both cores do one thing at a
        time."""
        while True:
            futures = [submit(self.seed + offset) for offset in range(at_once)]
            self.seed += at_once
            yield from [future.result() for future in futures]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def _vision_steps(self, stage: Stage) -> Iterator[tuple[Tensor, dict[str, float], int]]:
        forward = torch.compile(self.model.image_embeddings, dynamic=False)
        side = self.model.config.patches // 2
        fresh = self._generated(
            lambda seed: self.executor.submit(vision_batch, seed, stage.rows_per_batch, side, 0.25), 32
        )
        for tiles, targets in replayed(fresh, stage.replay, 600):
            with self._autocast():
                embeddings = forward(torch.from_numpy(tiles).to(self.device))
            loss, recall = self.heads.dense.loss(embeddings, torch.from_numpy(targets).to(self.device))
            yield loss, recall | {"loss": float(loss.detach())}, len(tiles)

    def _language_steps(self, stage: Stage) -> Iterator[tuple[Tensor, dict[str, float], int]]:
        model, tokenizer = self.model, self.tokenizer
        side = model.config.patches // 2

        def run(tiles: Tensor, ids: Tensor, slots: Tensor) -> tuple[Tensor, list[Tensor]]:
            embeddings = model.image_embeddings(tiles)
            return embeddings, model.hidden_states(ids, embeddings.flatten(0, 1), slots)

        forward = torch.compile(run, dynamic=False)

        mixture = stage.mixture or Mixture(0.0, "tile")

        def submit(seed: int) -> Future[list[Batch]]:
            return self.executor.submit(
                language_chunk, seed, 8 * stage.rows_per_batch, stage.rows_per_batch, mixture, tokenizer, side
            )

        fresh = (batch for chunk in self._generated(submit, 2) for batch in chunk)
        for batch in replayed(fresh, stage.replay, 400):
            tensors = Tensors.of(batch, self.device)
            with self._autocast():
                outputs = forward(tensors.tiles, tensors.ids, tensors.image_slots)
            loss, measures = language_loss(
                model, self.heads, outputs, tensors, batch.n_tiles, stage.weights, tokenizer.plus, tokenizer.minus
            )
            yield loss, measures, len(batch.ids)
