"""`vprm bench builds --model 8b-slice --sm 89 --precision fp16 int8 --json`: what builds cost.

Exports a model at each precision, laid out for TensorRT, and builds its engines for each compute capability with
TensorRT-RTX, which needs no device. Each build runs in a process of its own, whose peak memory is that of the build
alone. Weights are the demo PRM's, or random ones at VisualPRM-8B's layer shapes; sizes and times do not depend on them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vprm_benchmarks.gpu.synthetic_calibration import write_synthetic_calibration
from vprm_benchmarks.random_checkpoint import visualprm_8b_spec, write_random_checkpoint
from vprm_benchmarks.speed.machine import machine, peak_rss_bytes
from vprm_compile.build import build_engines
from vprm_compile.capability import BuildOptions
from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, EngineError, UnsupportedError
from vprm_runtime.bundle.manifest import Precision
from vprm_runtime.cli.common import activity, print_json
from vprm_runtime.cli.progress import Say, say_nothing
from vprm_runtime.engines.cuda.tensorrt.graph import import_tensorrt


@dataclass(frozen=True)
class BuildCost:
    """What one build took. `refused` says why a precision cannot be built for a device; then all else is 0."""

    precision: str
    compute_capability: int
    build_s: float = 0.0  # of both graphs, by the clock
    cpu_s: float = 0.0  # of all of the builder's threads, import and check included: other load hardly moves it
    engine_bytes: int = 0
    weights_bytes: int = 0
    workspace_bytes: int = 0
    peak_rss_bytes: int = 0  # VmHWM of the process that built; mapped weights count
    fused_attention: str = ""  # nodes in fused kernels of all
    matmuls: str = ""  # products of the LLM by operand types
    problems: tuple[str, ...] = ()
    refused: str | None = None


def measured_build(bundle_path: Path, capability: int, profile: str) -> BuildCost:
    """Build one bundle's engines in this process, which must be fresh, and say what it took."""
    bundle = Bundle.open(bundle_path)
    precision = bundle.manifest.graphs.llm.precision
    started_s = time.process_time()
    try:
        info = build_engines(bundle, BuildOptions("tensorrt-rtx", capability, profile))
    except (EngineError, UnsupportedError) as error:
        return BuildCost(precision, capability, refused=str(error))
    graphs = (info.vision, info.llm)
    fused, attention = (
        sum(getattr(graph.check, name) for graph in graphs) for name in ("fused_attention_nodes", "attention_nodes")
    )
    return BuildCost(
        precision=precision,
        compute_capability=capability,
        build_s=round(sum(graph.build_s for graph in graphs), 2),
        cpu_s=round(time.process_time() - started_s, 2),
        engine_bytes=sum(graph.size_bytes for graph in graphs),
        weights_bytes=sum(graph.weights_bytes for graph in graphs),
        workspace_bytes=max(graph.workspace_bytes for graph in graphs),
        peak_rss_bytes=peak_rss_bytes(),
        fused_attention=f"{fused} of {attention}",
        matmuls=", ".join(f"{count} of {pair}" for pair, count in info.llm.check.matmuls.items()),
        problems=tuple(problem for graph in graphs for problem in graph.check.problems),
    )


def build_costs(
    checkpoint: Path, work: Path, precisions: list[Precision], sms: list[int], profile: str, say: Say = say_nothing
) -> list[Any]:
    """Export each precision into `work` and measure a build for each device, one at a time; bundles are removed."""
    costs: list[BuildCost] = []
    for precision in precisions:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            calibration = None
            if precision in ("int8", "fp8"):
                calibration = write_synthetic_calibration(Path(folder) / "calibration.safetensors", checkpoint)
            options = ExportOptions(precision, "fp16", target="tensorrt", calibration=calibration)
            say(f"exporting {precision}", len(costs), len(precisions) * len(sms))
            export_bundle(checkpoint, Path(folder) / "bundle", options)
            for sm in sms:
                say(f"building {precision} for sm{sm}", len(costs), len(precisions) * len(sms))
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                    cost = process.submit(measured_build, Path(folder) / "bundle", sm, profile).result()
                print(_line(cost), file=sys.stderr, flush=True)  # noqa: T201 - progress
                costs.append(cost)
    return costs


def _line(cost: BuildCost) -> str:
    if cost.refused:
        return f"{cost.precision:5} sm{cost.compute_capability}: {cost.refused}"
    return (
        f"{cost.precision:5} sm{cost.compute_capability}: {cost.build_s:6.1f} s ({cost.cpu_s:.1f} s of CPU), "
        f"engines {cost.engine_bytes / 1e6:8,.0f} MB, "
        f"workspace {cost.workspace_bytes / 1e6:6,.0f} MB, peak memory {cost.peak_rss_bytes / 1e9:5.2f} GB, "
        f"attention fused {cost.fused_attention}, LLM products {cost.matmuls}"
    )


def run(args: argparse.Namespace) -> int:
    """Print a line per build on stderr, with --json one document on stdout. Exit code 1 if a build has problems."""
    library = import_tensorrt("tensorrt-rtx")
    started = time.monotonic()
    with activity("builds", "builds") as say, tempfile.TemporaryDirectory(dir=args.work) as work:
        checkpoint = checkpoint_dir()
        if args.model != "demo":
            say("writing weights")
            layers = () if args.model == "8b" else (args.layers, args.vision_layers)
            checkpoint = write_random_checkpoint(Path(work) / "checkpoint", visualprm_8b_spec(*layers))
        costs = build_costs(checkpoint, Path(work), args.precision, args.sm, args.profile, say)
    if args.json:
        print_json(
            {
                "benchmark": "builds",
                "library": f"tensorrt-rtx {library.__version__}",
                "machine": machine(),
                "model": args.model,
                "layers": [args.layers, args.vision_layers] if args.model == "8b-slice" else None,
                "profile": args.profile,
                "builds": [asdict(cost) for cost in costs],
                "elapsed_s": round(time.monotonic() - started, 1),
            }
        )
    return int(any(cost.problems for cost in costs))
