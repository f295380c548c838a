"""What the suite's stages are: device, roofline, random weights, PyTorch, then this package's engines in turn.

Each engine is exported, built, opened, measured in rounds in which PyTorch with prefix reuse takes its turns too, and
closed again, so that memory and disk need to hold one at a time. What cannot take part is reported with the reason;
what would begin after the time budget, or by earlier stages would not end in it, is left out and says so. The report is
handed to `save` after every stage: a run that is killed leaves what it had.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from vprm_benchmarks.gpu.environment import (
    PACKAGES,
    EngineKind,
    device_facts,
    engine_kinds,
    used_bytes,
)
from vprm_benchmarks.gpu.goals import goals, own_name, what_was_measured
from vprm_benchmarks.gpu.measurements import FAILURES, Measurements
from vprm_benchmarks.gpu.roofline import roofline
from vprm_benchmarks.gpu.stages import Stages
from vprm_benchmarks.gpu.synthetic_calibration import write_synthetic_calibration
from vprm_benchmarks.random_checkpoint import CheckpointSpec, tiny_spec, visualprm_8b_spec, write_random_checkpoint
from vprm_benchmarks.speed.arithmetic import LlmArithmetic
from vprm_benchmarks.speed.contenders import Contender
from vprm_benchmarks.speed.contenders.bundle import BundleContender
from vprm_benchmarks.speed.contenders.torch import TorchContender, compiled_contender, torch_contenders
from vprm_benchmarks.speed.machine import versions
from vprm_benchmarks.speed.models import Model
from vprm_benchmarks.speed.roofline import synchronize
from vprm_benchmarks.speed.stopwatch import median_s
from vprm_benchmarks.speed.workload import WorkloadSize, workload
from vprm_compile.build import build_engines
from vprm_compile.capability import BuildOptions
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, StepScorer
from vprm_runtime.bundle.manifest import Precision

ModelName = Literal["tiny", "8b-slice", "8b"]
_TILES, _STEPS, _STEP_TOKENS = 13, 10, 30  # of a request: 12 tiles and a thumbnail, about 300 tokens per candidate
_QUANTISED: tuple[Precision, ...] = ("int8", "w8", "w4", "fp8")


@dataclass(frozen=True)
class SuiteOptions:
    """What to run. `work` holds weights and bundles; `slice_layers`: LLM layers of 8b-slice; `budget_s`: see above."""

    work: Path
    model: ModelName = "8b"
    slice_layers: int = 8
    precisions: tuple[Precision, ...] = ("fp16", "int8", "fp8")
    best_of: tuple[int, ...] = (8, 32)
    prefill_tokens: tuple[int, ...] = (2048, 4096)
    rounds: int = 3
    budget_s: float = 450.0

    @property
    def spec(self) -> CheckpointSpec:
        """The random model."""
        if self.model == "tiny":
            return tiny_spec()
        return visualprm_8b_spec() if self.model == "8b" else visualprm_8b_spec(self.slice_layers)


@dataclass
class Suite:
    """One run: what the stages are. `report` is the JSON document in the making."""

    options: SuiteOptions
    say: Callable[[str], None] = lambda text: None
    save: Callable[[dict[str, Any]], None] = lambda report: None
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")

    def __post_init__(self) -> None:
        self.stages = Stages(self.options.budget_s, self.say, self._save)
        self.report = self.stages.report

    def run(self) -> dict[str, Any]:
        """All stages; returns the JSON document."""
        options = self.options
        self.report |= {
            "suite": "gpu",
            "finished": False,
            "device": device_facts(),
            "versions": versions(PACKAGES),
            "model": options.model,
            "layers": [options.spec.llm.layers, options.spec.vision.layers],
        }
        self.report["roofline"] = self.stages.run("roofline", lambda: roofline(self.device))
        checkpoint = self.stages.run("random weights", self._checkpoint)
        model = Model(checkpoint, options.work)
        sizes = {count: WorkloadSize(_TILES, count, _STEPS, _STEP_TOKENS) for count in options.best_of}
        works = {count: workload(size, model.tile_px, model.count_tokens) for count, size in sizes.items()}
        self._measured = Measurements(works, options.prefill_tokens)
        self._arithmetic = LlmArithmetic.of(checkpoint)
        torch_ones = self._torch(checkpoint)
        self._engines(checkpoint, torch_ones[-1] if torch_ones else None)
        self._compiled(torch_ones)
        self.report["finished"] = True
        self.stages.saved()
        return self.report

    def _save(self, report: dict[str, Any]) -> None:
        report["goals"] = goals(report)
        report["measured_with"] = what_was_measured(report)
        self.save(report)

    def _checkpoint(self) -> Path:
        path = self.options.work / f"checkpoint-{self.options.model}"
        return path if (path / "config.json").is_file() else write_random_checkpoint(path, self.options.spec)

    def _torch(self, checkpoint: Path) -> list[Contender]:
        """PyTorch's contenders, opened and measured."""
        before = used_bytes()
        try:
            opened = self.stages.run("open PyTorch", lambda: list(torch_contenders(checkpoint, self.device)))
        except FAILURES as error:
            self.stages.skip("PyTorch", error)
            return []
        for one in opened:
            self._result(one, before)  # both share these weights
        lengths = {str(count): opened[0].tokens(work) for count, work in self._measured.works.items()}
        self.report["workload"] = {"prompt_tokens": lengths}
        self._rounds("measure PyTorch", opened, before)
        return list(opened)

    def _engines(self, checkpoint: Path, baseline: Contender | None) -> None:
        kinds = engine_kinds(self.device)
        for kind, reason in kinds.items():
            if reason is not None:
                self.report["results"].append({"name": kind, "skipped": reason})
        for precision in ("fp32",) if self.device == "cpu" else self.options.precisions:
            wanted = [kind for kind, reason in kinds.items() if reason is None and _takes(kind, precision)]
            if not wanted:
                continue
            path = self.options.work / f"bundle-{self.options.model}-{precision}"
            try:
                bundle = self.stages.run(
                    f"export {precision}", functools.partial(self._bundle, checkpoint, path, precision), "export"
                )
            except FAILURES as error:
                self.stages.skip(f"export {precision}", error)
                continue
            for kind in wanted:
                self._engine(own_name(kind, precision), bundle, kind, baseline)
            shutil.rmtree(path, ignore_errors=True)

    def _bundle(self, checkpoint: Path, path: Path, precision: Precision) -> Bundle:
        if not path.exists():
            calibration = None
            if precision in ("int8", "fp8"):
                calibration = write_synthetic_calibration(path.with_suffix(".safetensors"), checkpoint)
            target: Literal["cpu", "tensorrt"] = "tensorrt" if precision in _QUANTISED else "cpu"
            vision: Precision = "fp32" if precision == "fp32" else "fp16"
            export_bundle(checkpoint, path, ExportOptions(precision, vision, target=target, calibration=calibration))
        return Bundle.open(path)

    def _engine(self, name: str, bundle: Bundle, kind: EngineKind, baseline: Contender | None) -> None:
        """Build, open, measure and close one engine."""
        before = used_bytes()
        try:
            if kind == "tensorrt" or kind == "tensorrt-rtx":
                build = functools.partial(build_engines, bundle, BuildOptions(kind))
                info = self.stages.run(f"build {name}", build, f"build {kind}")
                self.report.setdefault("builds", {})[name] = {
                    "build_s": info.vision.build_s + info.llm.build_s,
                    "size_bytes": info.vision.size_bytes + info.llm.size_bytes,
                    "problems": [*info.vision.check.problems, *info.llm.check.problems],
                }
            one = self.stages.run(
                f"open {name}", lambda: BundleContender(name, StepScorer.open(bundle, kind)), f"open {kind}"
            )
        except FAILURES as error:
            self.stages.skip(name, error)
            return
        self._result(one, before)
        self._rounds(f"measure {name}", [one] if baseline is None else [baseline, one], before)

    def _result(self, one: Contender, before: int) -> None:
        entry: dict[str, Any] = {"name": one.name, "skipped": None, "description": one.description}
        if self.device == "cuda":
            entry["memory_bytes"] = used_bytes() - before
        self.report["results"].append(entry)

    def _rounds(self, name: str, contenders: Sequence[Contender], before: int) -> None:
        """Measure contenders; `before` is the device memory in use before the last of them was opened."""
        measure = self._measured.rounds
        try:
            self.stages.run(name, lambda: measure(contenders, self.options.rounds, self.stages.out_of_time))
        except TimeoutError as error:
            self._entry(contenders[-1].name)["skipped"] = str(error)
        peaks = self.report["roofline"]
        peak = max(value for key, value in peaks.items() if key in ("bf16_tflops", "fp32_tflops"))
        for one in contenders:
            self._measured.enter(self._entry(one.name), self._arithmetic, peak)
        if self.device == "cuda":
            self._entry(contenders[-1].name)["memory_after_bytes"] = used_bytes() - before
        self.stages.saved()

    def _entry(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.report["results"] if entry["name"] == name)

    def _compiled(self, torch_ones: list[Contender]) -> None:
        """torch.compile comes last: it changes the model that the other PyTorch contenders use."""
        plain = next((one for one in torch_ones if isinstance(one, TorchContender)), None)
        if plain is None or self.device != "cuda":
            self.report["results"].append({"name": "PyTorch, torch.compile", "skipped": "no GPU, or no PyTorch"})
            return
        one, count = compiled_contender(plain), min(self._measured.works)
        work = self._measured.works[count]
        try:
            call = functools.partial(median_s, lambda: one.scores(work), repeats=3, synchronize=synchronize)
            seconds = self.stages.run(one.name, call)
            milliseconds = {f"best of {count}": round(seconds * 1e3, 3)}
            self.report["results"].append({"name": one.name, "skipped": None, "ms": milliseconds})
        except FAILURES as error:
            self.stages.skip(one.name, error)


def _takes(kind: EngineKind, precision: Precision) -> bool:
    """Whether an engine runs bundles of this precision as the suite exports them."""
    return precision not in _QUANTISED or kind.startswith("tensorrt")
