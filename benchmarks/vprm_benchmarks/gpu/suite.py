"""The suite's stages: device, roofline, random weights, PyTorch, then this package's engines one after the other.

Each engine is exported, built, opened, measured in rounds in which PyTorch with prefix reuse takes its turns too, and
closed again, so that memory and disk need to hold one at a time. What cannot take part is reported with the reason;
what would begin after the time budget, or by earlier stages would not end in it, is left out and says so. The report is
handed to `save` after every stage: a run that is killed leaves what it had.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

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
from vprm_benchmarks.gpu.roofline import median_s, roofline
from vprm_benchmarks.gpu.synthetic_calibration import write_synthetic_calibration
from vprm_benchmarks.random_checkpoint import CheckpointSpec, tiny_spec, visualprm_8b_spec, write_random_checkpoint
from vprm_benchmarks.speed.arithmetic import LlmArithmetic
from vprm_benchmarks.speed.contenders import Contender
from vprm_benchmarks.speed.contenders.bundle import BundleContender
from vprm_benchmarks.speed.contenders.torch import TorchContender, compiled_contender, torch_contenders
from vprm_benchmarks.speed.machine import versions
from vprm_benchmarks.speed.models import Model
from vprm_benchmarks.speed.workload import WorkloadSize, workload
from vprm_compile.build import BuildOptions, build_engines
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, StepScorer
from vprm_runtime.bundle.manifest import Precision

ModelName = Literal["tiny", "8b-slice", "8b"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
_TILES, _STEPS, _STEP_TOKENS = 13, 10, 30  # of a request: 12 tiles and a thumbnail, about 300 tokens a candidate
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
    """One run. `report` is the JSON document in the making."""

    options: SuiteOptions
    say: Callable[[str], None] = lambda text: None
    save: Callable[[dict[str, Any]], None] = lambda report: None
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    report: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)
    _longest: dict[str, float] = field(default_factory=dict)

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
            "stages_s": {},
            "results": [],
        }
        self.report["roofline"] = self._stage("roofline", lambda: roofline(self.device))
        checkpoint = self._stage("random weights", self._checkpoint)
        model = Model(checkpoint, options.work)
        sizes = {count: WorkloadSize(_TILES, count, _STEPS, _STEP_TOKENS) for count in options.best_of}
        works = {count: workload(size, model.tile_px, model.count_tokens) for count, size in sizes.items()}
        self._measured = Measurements(works, options.prefill_tokens)
        self._arithmetic = LlmArithmetic.of(checkpoint)
        torch_ones = self._torch(checkpoint)
        self._engines(checkpoint, torch_ones[-1] if torch_ones else None)
        self._compiled(torch_ones)
        self.report["finished"] = True
        self._save()
        return self.report

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _out_of_time(self) -> bool:
        return self._elapsed() > self.options.budget_s

    def _save(self) -> None:
        self.report["goals"] = goals(self.report)
        self.report["measured_with"] = what_was_measured(self.report)
        self.report["elapsed_s"] = round(self._elapsed(), 1)
        self.save(self.report)

    def _stage(self, name: str, call: Callable[[], Any], kind: str = "") -> Any:
        """Run a stage and note its time; stages of one `kind` take about as long as each other."""
        started = self._elapsed()
        expected = self._longest.get(kind, 0.0)
        if started + expected > self.options.budget_s:
            raise TimeoutError(
                f"the time budget of {self.options.budget_s:.0f} s: {started:.0f} s are gone"
                + (f", and this took {expected:.0f} s before" if expected else "")
            )
        self.say(f"{started:6.1f} s  {name}")
        result = call()
        seconds = self._elapsed() - started
        self.report["stages_s"][name] = round(seconds, 2)
        if kind:
            self._longest[kind] = max(expected, seconds)
        self._save()
        return result

    def _skip(self, name: str, error: Exception) -> None:
        why = str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        self.report["results"].append({"name": name, "skipped": why})
        self._save()

    def _checkpoint(self) -> Path:
        path = self.options.work / f"checkpoint-{self.options.model}"
        return path if (path / "config.json").is_file() else write_random_checkpoint(path, self.options.spec)

    def _torch(self, checkpoint: Path) -> list[Contender]:
        """PyTorch's contenders, opened and measured."""
        before = used_bytes()
        try:
            opened = self._stage("open PyTorch", lambda: list(torch_contenders(checkpoint, self.device)))
        except FAILURES as error:
            self._skip("PyTorch", error)
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
                bundle = self._stage(
                    f"export {precision}", functools.partial(self._bundle, checkpoint, path, precision), "export"
                )
            except FAILURES as error:
                self._skip(f"export {precision}", error)
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
                info = self._stage(f"build {name}", lambda: build_engines(bundle, BuildOptions(kind)), f"build {kind}")
                self.report.setdefault("builds", {})[name] = {
                    "build_s": info.vision.build_s + info.llm.build_s,
                    "size_bytes": info.vision.size_bytes + info.llm.size_bytes,
                    "problems": [*info.vision.check.problems, *info.llm.check.problems],
                }
            one = self._stage(
                f"open {name}", lambda: BundleContender(name, StepScorer.open(bundle, kind)), f"open {kind}"
            )
        except FAILURES as error:
            self._skip(name, error)
            return
        self._result(one, before)
        self._rounds(f"measure {name}", [one] if baseline is None else [baseline, one], before)

    def _result(self, one: Contender, before: int) -> None:
        entry: dict[str, Any] = {"name": one.name, "skipped": None, "description": one.description}
        if self.device == "cuda":
            entry["memory_bytes"] = used_bytes() - before
        self.report["results"].append(entry)

    def _rounds(self, name: str, contenders: list[Contender], before: int) -> None:
        """Measure contenders; `before` is the device memory in use before the last of them was opened."""
        measure = self._measured.rounds
        try:
            self._stage(name, lambda: measure(contenders, self.options.rounds, self._out_of_time))
        except TimeoutError as error:
            self._entry(contenders[-1].name)["skipped"] = str(error)
        peaks = self.report["roofline"]
        peak = max(value for key, value in peaks.items() if key in ("bf16_tflops", "fp32_tflops"))
        for one in contenders:
            self._measured.enter(self._entry(one.name), self._arithmetic, peak)
        if self.device == "cuda":
            self._entry(contenders[-1].name)["memory_after_bytes"] = used_bytes() - before
        self._save()

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
            seconds = self._stage(one.name, lambda: median_s(lambda: one.scores(work), repeats=3))
            milliseconds = {f"best of {count}": round(seconds * 1e3, 3)}
            self.report["results"].append({"name": one.name, "skipped": None, "ms": milliseconds})
        except FAILURES as error:
            self._skip(one.name, error)


def _takes(kind: EngineKind, precision: Precision) -> bool:
    """Whether an engine runs bundles of this precision as the suite exports them."""
    return precision not in _QUANTISED or kind.startswith("tensorrt")


def _opened(name: str, bundle: Bundle, kind: EngineKind) -> BundleContender:
    return BundleContender(name, StepScorer.open(bundle, kind))
