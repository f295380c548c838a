"""The suite's stages: device, roofline, random weights, contenders opened one by one, rounds over all of them.

A contender that cannot take part is reported with the reason; a stage that would not fit into the time budget is
left out and says so. Timings are medians over rounds, in each of which every contender takes its turn.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from vprm_benchmarks.gpu.contenders import (
    Contender,
    EngineContender,
    EngineKind,
    compiled_contender,
    torch_contenders,
)
from vprm_benchmarks.gpu.roofline import median_s, roofline, synchronize
from vprm_benchmarks.gpu.synthetic_calibration import write_synthetic_calibration
from vprm_benchmarks.gpu.workload import LlmArithmetic, Workload, workload
from vprm_benchmarks.random_checkpoint import CheckpointSpec, tiny_spec, visualprm_8b_spec, write_random_checkpoint
from vprm_export import ExportOptions, export_bundle
from vprm_export.tensorrt import BuildOptions, build_engines
from vprm_runtime import Bundle, VprmError
from vprm_runtime.engines.ort_cuda import is_cuda_installed
from vprm_runtime.engines.trt.library import is_installed
from vprm_runtime.manifest import Precision

ModelName = Literal["tiny", "8b-slice", "8b"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
_FAILURES = (VprmError, RuntimeError, OSError, ValueError, ImportError, MemoryError)
_PACKAGES = ("torch", "transformers", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "cuda-python")
_QUANTISED: tuple[Precision, ...] = ("int8", "w8", "w4", "fp8")


@dataclass(frozen=True)
class SuiteOptions:
    """What to run. `slice_layers`: LLM layers of 8b-slice; `budget_s`: no contender is begun after this time."""

    out: Path
    model: ModelName = "8b"
    slice_layers: int = 8
    precisions: tuple[Precision, ...] = ("fp16", "int8", "fp8")
    best_of: tuple[int, ...] = (8, 32)
    prefill_tokens: tuple[int, ...] = (2048, 4096)
    rounds: int = 3
    budget_s: float = 480.0


@dataclass
class Suite:
    """One run. `report` is the JSON document in the making."""

    options: SuiteOptions
    say: Callable[[str], None] = lambda text: None
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    contenders: list[Contender] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def run(self) -> dict[str, Any]:
        """All stages; returns the JSON document."""
        options = self.options
        self.report |= {
            "suite": "gpu",
            "device": _device(),
            "versions": _versions(),
            "model": options.model,
            "stages_s": {},
            "results": [],
        }
        self.report["roofline"] = self._timed("roofline", lambda: roofline(self.device))
        checkpoint = self._timed("random weights", self._checkpoint)
        self._open_torch(checkpoint)
        self._open_engines(checkpoint)
        works = {count: workload(count, _spec(options).vision.image_size) for count in options.best_of}
        if self.contenders:
            self._describe_work(works)
            self._rounds(works, LlmArithmetic.of(checkpoint))
            self._compiled(works)
        self.report["goals"] = goals(self.report)
        self.report["elapsed_s"] = round(self._elapsed(), 1)
        return self.report

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        started = self._elapsed()
        self.say(f"{started:6.1f} s  {name}")
        result = call()
        self.report["stages_s"][name] = round(self._elapsed() - started, 2)
        return result

    def _checkpoint(self) -> Path:
        path = self.options.out / f"checkpoint-{self.options.model}"
        return path if (path / "config.json").is_file() else write_random_checkpoint(path, _spec(self.options))

    def _attempt(self, name: str, open_it: Callable[[], Contender | list[Contender]]) -> None:
        """Open a contender; what goes wrong is a result too."""
        if self._elapsed() > self.options.budget_s:
            self.report["results"].append(
                {"name": name, "skipped": f"the time budget of {self.options.budget_s:.0f} s"}
            )
            return
        before = _used_bytes()
        try:
            opened = self._timed(f"open {name}", open_it)
        except _FAILURES as error:
            self.report["results"].append({"name": name, "skipped": f"{type(error).__name__}: {error}"})
            return
        both = opened if isinstance(opened, list) else [opened]
        self.contenders += both
        for one in both:
            entry: dict[str, Any] = {"name": one.name, "skipped": None}
            if self.device == "cuda":
                entry["memory_bytes"] = _used_bytes() - before  # of all contenders that share these weights
            self.report["results"].append(entry)

    def _open_torch(self, checkpoint: Path) -> None:
        self._attempt("PyTorch", lambda: list(torch_contenders(checkpoint, self.device)))

    def _open_engines(self, checkpoint: Path) -> None:
        kinds = engine_kinds(self.device)
        for kind, reason in kinds.items():
            if reason is not None:
                self.report["results"].append({"name": kind, "skipped": reason})
        usable = [kind for kind, reason in kinds.items() if reason is None]
        for precision in ("fp32",) if self.device == "cpu" else self.options.precisions:
            wanted = [kind for kind in usable if precision not in _QUANTISED or kind.startswith("tensorrt")]
            if not wanted:
                continue
            try:
                bundle = self._timed(f"export {precision}", lambda p=precision: self._bundle(checkpoint, p))  # type: ignore[misc]
            except _FAILURES as error:
                self.report["results"].append({"name": f"export {precision}", "skipped": f"{error}"})
                continue
            for kind in wanted:
                name = f"vprm, {kind}, {precision}"
                self._attempt(name, lambda n=name, b=bundle, k=kind: self._engine(n, b, k))  # type: ignore[misc]

    def _bundle(self, checkpoint: Path, precision: Precision) -> Bundle:
        path = self.options.out / f"bundle-{self.options.model}-{precision}"
        if not path.exists():
            calibration = None
            if precision in ("int8", "fp8"):
                calibration = write_synthetic_calibration(self.options.out / "calibration.safetensors", checkpoint)
            target: Literal["cpu", "tensorrt"] = "tensorrt" if precision in _QUANTISED else "cpu"
            vision: Precision = "fp32" if precision == "fp32" else "fp16"
            export_bundle(checkpoint, path, ExportOptions(precision, vision, target=target, calibration=calibration))
        return Bundle.open(path)

    def _engine(self, name: str, bundle: Bundle, kind: EngineKind) -> Contender:
        if kind == "tensorrt" or kind == "tensorrt-rtx":
            info = build_engines(bundle, BuildOptions(kind))
            self.report.setdefault("builds", {})[name] = {
                "build_s": info.vision.build_s + info.llm.build_s,
                "size_bytes": info.vision.size_bytes + info.llm.size_bytes,
                "problems": [*info.vision.check.problems, *info.llm.check.problems],
            }
        return EngineContender(name, bundle, kind)

    def _describe_work(self, works: dict[int, Workload]) -> None:
        lengths = {str(count): self.contenders[0].tokens(work) for count, work in works.items()}
        self.report["workload"] = {"prompt_tokens": lengths}

    def _rounds(self, works: dict[int, Workload], arithmetic: LlmArithmetic) -> None:
        """Interleaved rounds; the first, which warms up, counts for the scores only."""
        times: dict[tuple[str, str], list[float]] = {}
        scores: dict[str, NDArray[np.float64]] = {}
        failed: dict[str, str] = {}
        smallest = works[min(works)]
        for number in range(self.options.rounds + 1):
            for one in self.contenders:
                if one.name in failed or (number > 1 and self._elapsed() > self.options.budget_s):
                    continue
                try:
                    if number == 0:
                        scores[one.name] = one.scores(smallest)
                    for what, call in self._measurements(one, works):
                        seconds = median_s(call, repeats=1, warmups=0)
                        if number:
                            times.setdefault((one.name, what), []).append(seconds)
                except _FAILURES as error:
                    failed[one.name] = f"{type(error).__name__}: {error}"
            self.say(f"{self._elapsed():6.1f} s  round {number} of {self.options.rounds}")
        for entry in self.report["results"]:
            self._enter(entry, times, scores, failed, arithmetic)

    def _measurements(self, one: Contender, works: dict[int, Workload]) -> list[tuple[str, Callable[[], object]]]:
        found: list[tuple[str, Callable[[], object]]] = [("vision", lambda: one.vision(works[min(works)].image))]
        found += [(f"prefill {tokens}", one.prefill(tokens)) for tokens in self.options.prefill_tokens]
        found += [(f"best of {count}", lambda work=work: one.scores(work)) for count, work in works.items()]  # type: ignore[misc]
        return found

    def _enter(
        self,
        entry: dict[str, Any],
        times: dict[tuple[str, str], list[float]],
        scores: dict[str, NDArray[np.float64]],
        failed: dict[str, str],
        arithmetic: LlmArithmetic,
    ) -> None:
        """Write one contender's medians and differences into its result."""
        name = entry["name"]
        if name in failed:
            entry["failed"] = failed[name]
        medians = {what: statistics.median(values) for (who, what), values in times.items() if who == name}
        entry["ms"] = {what: round(seconds * 1e3, 3) for what, seconds in medians.items()}
        pruned = any(one.pruned for one in self.contenders if one.name == name)
        peak = max(value for key, value in self.report["roofline"].items() if key in ("bf16_tflops", "fp32_tflops"))
        for tokens in self.options.prefill_tokens:
            if (seconds := medians.get(f"prefill {tokens}")) is not None:
                tflops = arithmetic.prefill_flops(tokens, pruned=pruned) / seconds / 1e12
                entry.setdefault("prefill", {})[str(tokens)] = {
                    "tokens_per_s": round(tokens / seconds, 1),
                    "tflops": round(tflops, 3),
                    "fraction_of_peak": round(tflops / peak, 4),
                }
        reference = scores.get(self.contenders[0].name)
        if name in scores and reference is not None:
            difference = np.abs(scores[name] - reference)
            entry["difference_from_first"] = {"max": float(difference.max()), "mean": float(difference.mean())}

    def _compiled(self, works: dict[int, Workload]) -> None:
        """torch.compile comes last: it changes the model that the other PyTorch contenders use."""
        from vprm_benchmarks.gpu.contenders import TorchContender

        plain = next((one for one in self.contenders if isinstance(one, TorchContender)), None)
        if plain is None or self.device != "cuda" or self._elapsed() > self.options.budget_s:
            self.report["results"].append({"name": "PyTorch, torch.compile", "skipped": "no GPU, or the time budget"})
            return
        one = compiled_contender(plain)
        entry: dict[str, Any] = {"name": one.name, "skipped": None, "ms": {}}
        self.report["results"].append(entry)
        count = min(works)
        try:
            seconds = self._timed(one.name, lambda: median_s(lambda: one.scores(works[count]), repeats=2))
            entry["ms"][f"best of {count}"] = round(seconds * 1e3, 3)
        except _FAILURES as error:
            entry["failed"] = f"{type(error).__name__}: {error}"


def engine_kinds(device: str) -> dict[EngineKind, str | None]:
    """This package's engines, and why one cannot take part (None: it can)."""
    if device == "cpu":
        gone = "there is no CUDA device"
        return {"cpu": None, "cuda": gone, "tensorrt": gone, "tensorrt-rtx": gone}
    return {
        "cuda": None if is_cuda_installed() else "onnxruntime-gpu is not installed",
        "tensorrt": None if is_installed("tensorrt") else "tensorrt is not installed",
        "tensorrt-rtx": None if is_installed("tensorrt-rtx") else "tensorrt-rtx is not installed",
    }


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The project's goals on a data-centre GPU beside what was measured; None where it was not."""
    results = {entry["name"]: entry for entry in report["results"]}

    def best(kind: str, precision: str) -> dict[str, Any]:
        return next((results[name] for name in results if name.startswith(f"vprm, {kind}") and precision in name), {})

    fp16 = best("tensorrt", "fp16")
    first: dict[str, Any] = next((entry for name, entry in results.items() if "one pass a candidate" in name), {})
    prefill = fp16.get("prefill", {})
    best_of = fp16.get("ms", {}).get("best of 8")
    torch_ms = first.get("ms", {}).get("best of 8")
    eight_bit = [best("tensorrt", precision).get("prefill", {}) for precision in ("fp8", "int8")]
    rates = [max((one["tokens_per_s"] for one in table.values()), default=0) for table in eight_bit]
    base = max((one["tokens_per_s"] for one in prefill.values()), default=0)
    fraction = max((one["fraction_of_peak"] for one in prefill.values()), default=None)
    return [
        {"goal": "fp16 prefill, fraction of the bf16 peak", "at_least": 0.65, "measured": fraction},
        {"goal": "fp8 or int8 prefill over fp16", "at_least": 1.6, "measured": max(rates) / base if base else None},
        {"goal": "best of 8, ms (8B, 13 tiles)", "at_most": 250, "measured": best_of},
        {
            "goal": "best of 8 over PyTorch, one pass a candidate",
            "at_least": 4.0,
            "measured": torch_ms / best_of if torch_ms and best_of else None,
        },
    ]


def _spec(options: SuiteOptions) -> CheckpointSpec:
    if options.model == "tiny":
        return tiny_spec()
    return visualprm_8b_spec() if options.model == "8b" else visualprm_8b_spec(options.slice_layers, vision_layers=24)


def _device() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"name": "CPU", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _used_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    synchronize()
    free, total = torch.cuda.mem_get_info()
    return total - free
