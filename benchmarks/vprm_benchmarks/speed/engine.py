"""`vprm bench engine`: how near each engine's two graphs come to the peak of the library that runs them."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.speed.arithmetic import LlmArithmetic, vision_flops_per_tile
from vprm_benchmarks.speed.bundles import NATIVE_INT8, BundleKind
from vprm_benchmarks.speed.cli import Say, add_benchmark, add_number, add_rounds
from vprm_benchmarks.speed.report import Report
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_runtime import EngineError
from vprm_runtime.bundle.manifest import Manifest
from vprm_runtime.cli.common import Subparsers, positive_int
from vprm_runtime.engines import open_engine
from vprm_runtime.engines.base import no_image_rows
from vprm_runtime.execution.blocks import causal_block

if TYPE_CHECKING:
    from vprm_benchmarks.speed.models import Model
    from vprm_runtime.engines import Engine

_SCORED = 8  # positions of the last chunk that logits are compared at
_ENGINES: dict[str, tuple[BundleKind, str]] = {  # and the peak that it is held to
    "cpu_fp32": (BundleKind("fp32"), "onnxruntime_fp32"),
    "cpu_w8": (BundleKind("w8"), "onnxruntime_fp32"),
    "cpu_int8": (replace(NATIVE_INT8, vision="int8"), "onnxruntime_int8"),
    "cpu_w4": (replace(NATIVE_INT8, precision="w4", vision="int8"), "onnxruntime_int8"),
    "cpu_int8_standard": (BundleKind("int8", "int8"), "onnxruntime_int8"),  # standard operators only
    "cpu_bf16": (BundleKind("bf16", target="cpu-native"), "torch_bf16"),
    "openvino_fp16": (BundleKind("fp16", device="openvino"), "openvino"),
    "openvino_w8": (BundleKind("w8", device="openvino"), "openvino"),
}
_TYPES = {  # of the hardware's own peak
    "onnxruntime_fp32": "fp32", "onnxruntime_int8": "int8", "openvino": "bf16", "torch_bf16": "bf16",
}  # fmt: skip
_DEFAULT = ("cpu_fp32", "cpu_int8", "cpu_int8_standard", "openvino_fp16")


def register(benchmarks: Subparsers) -> None:
    """Add the `engine` parser."""
    parser = add_benchmark(
        benchmarks,
        "engine",
        run,
        "prefill and vision encoder of each engine, beside the library's peak",
        "Run a prefix through the LLM graph in chunks of several lengths, and one tile through the vision graph. "
        "Shown: tokens per second, TFLOP/s (multiplications and additions that the model asks for, causal attention "
        "counted once) and their fraction of the peak product that the same library reaches in the same type.",
    )
    add_rounds(parser, default=3)
    parser.add_argument("--model", choices=("demo", "8b-slice"), default="demo", help="default: demo")
    add_number(parser, "--layers", 2, "LLM layers of 8b-slice")
    add_number(parser, "--vision-layers", 2, "vision layers of 8b-slice")
    add_number(parser, "--tokens", 2048, "tokens of the prefix")
    add_number(parser, "--step-tokens", 16, "tokens of a step after the prefix")
    chunks = [128, 256, 512, 1024, 2048]
    text = f"tokens of a chunk (default: {' '.join(map(str, chunks))})"
    parser.add_argument("--chunks", type=positive_int, nargs="+", default=chunks, metavar="N", help=text)
    text = f"of {', '.join(_ENGINES)} (default: {' '.join(_DEFAULT)})"
    parser.add_argument("--engines", nargs="+", metavar="NAME", help=text)


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; every chunk length of every engine takes its turn in each round."""
    from vprm_benchmarks.speed.contenders.choice import choose
    from vprm_benchmarks.speed.models import Depth, Needs, prepared_model
    from vprm_benchmarks.speed.roofline import cpu_roofline, openvino_tflops

    names, absent = choose(args.engines, _DEFAULT, tuple(_ENGINES), lambda name: _ENGINES[name][0].device == "openvino")
    say("roofline")
    report = Report("engine", cpu_roofline(args.threads, args.roofline_size))
    if any(_ENGINES[name][0].device == "openvino" for name in names):
        report.roofline["tflops"]["openvino"] = openvino_tflops(report.roofline["threads"], args.roofline_size)
    keys = ("model", "layers", "vision_layers", "tokens", "chunks", "step_tokens", "rounds")
    report.settings = {key: getattr(args, key) for key in keys}
    say("writing weights")
    needs = Needs.of_bundles(_ENGINES[name][0] for name in names)
    with prepared_model(args.model, Depth(args.layers, args.vision_layers), needs) as model:
        _measure(args, model, names, report, say)
        gc.collect()  # engines let go of the files before they are removed
    report.contenders |= {name: {"skipped": reason} for name, reason in absent.items()}
    return report


def _measure(args: argparse.Namespace, model: Model, names: Sequence[str], report: Report, say: Say) -> None:
    llm, tile_flops = LlmArithmetic.of(model.checkpoint), vision_flops_per_tile(model.checkpoint)
    logits: dict[str, NDArray[np.float32]] = {}
    calls: dict[str, Callable[[], object]] = {}
    flops: dict[str, tuple[float, str]] = {}
    for name in names:
        say(f"opening {name}")
        kind, peak = _ENGINES[name]
        bundle = model.bundle(kind)
        engine = open_engine(bundle, kind.device, report.roofline["threads"])
        report.accuracy[name] = {"engine": engine.description}
        for chunk in args.chunks:
            case = f"{name}_chunk_{chunk}"
            calls[case] = partial(_prefill, engine, bundle.manifest, args.tokens, chunk, logits, case)
            flops[case] = llm.prefill_flops(args.tokens, pruned=True), peak
        step = f"{name}_step_{args.step_tokens}"
        calls[step] = _step(engine, bundle.manifest, args.tokens, args.step_tokens)
        flops[step] = llm.step_flops(args.step_tokens, args.tokens), peak
        calls[f"{name}_vision"] = partial(engine.encode_tiles, _tile(bundle.manifest))
        flops[f"{name}_vision"] = tile_flops, peak
    report.add_times(interleaved(calls, args.rounds, say=say))
    for case, (asked, peak) in flops.items():
        entry = report.contenders[case]
        tflops = asked / entry["median_s"] / 1e12
        entry |= {"tflops": tflops, "fraction_of_peak": tflops / report.roofline["tflops"][peak]}
        physical = report.roofline["physical_tops"].get(_TYPES.get(peak, ""))
        if physical:
            entry["fraction_of_physical_peak"] = tflops / physical
        if case.endswith("_vision"):
            entry["ms_per_tile"] = 1e3 * entry["median_s"]
        elif "_step_" in case:
            entry["ms_per_step"] = 1e3 * entry["median_s"]
        else:
            entry["tokens_per_s"] = args.tokens / entry["median_s"]
    steps = {name: f"{name}_step_{args.step_tokens}" for name in names}
    for name, step in steps.items():
        if name != names[0]:
            report.ratio(steps[names[0]], step)
    _compare(report, names, args.chunks, logits)


def _prefill(
    engine: Engine,
    manifest: Manifest,
    tokens: int,
    chunk: int,
    logits: dict[str, NDArray[np.float32]],
    case: str,
) -> None:
    """A prefix of arbitrary ids into an empty cache; logits are taken at its last tokens."""
    ids = np.random.default_rng(0).integers(10, 300, tokens)
    none = no_image_rows(manifest)
    cache = engine.new_cache(tokens)
    for start in range(0, tokens, chunk):
        new = list(ids[start : start + chunk])
        scored = range(max(0, len(new) - _SCORED), len(new)) if start + chunk >= tokens else ()
        found = engine.forward(causal_block(new, start, none, scored), cache)
    if not np.isfinite(found).all():
        raise EngineError(f"{case}: the LLM graph gave logits that are not finite; leave it out with --engines")
    logits[case] = found


def _step(engine: Engine, manifest: Manifest, cached: int, tokens: int) -> Callable[[], object]:
    """A step of so many tokens after the prefix, as `score_next` runs one; it is forgotten again."""
    none = no_image_rows(manifest)
    ids = list(np.random.default_rng(1).integers(10, 300, cached + tokens))
    cache = engine.new_cache(cached + tokens)
    for start in range(0, cached, 512):
        engine.forward(causal_block(ids[start : min(start + 512, cached)], start, none, ()), cache)

    def step() -> None:
        engine.forward(causal_block(ids[cached:], cached, none, (tokens - 1,)), cache)
        cache.truncate(cached)

    return step


def _tile(manifest: Manifest) -> NDArray[np.uint8]:
    size = manifest.tiling.tile_size_px
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)


def _compare(
    report: Report, names: Sequence[str], chunks: Sequence[int], logits: Mapping[str, NDArray[np.float32]]
) -> None:
    """The first engine's best time over the others', and how far logits are from the first engine's first chunks."""
    best = {name: min(report.contenders[f"{name}_chunk_{chunk}"]["median_s"] for chunk in chunks) for name in names}
    wanted = logits[f"{names[0]}_chunk_{chunks[0]}"]
    scale = float(np.sqrt(np.mean(np.square(wanted))))
    for name in names:
        if name != names[0]:
            report.add_ratio(f"{names[0]}_over_{name}", best[names[0]] / best[name])
        found = [logits[f"{name}_chunk_{chunk}"][-len(wanted) :] for chunk in chunks]
        rows = [min(len(one), len(wanted)) for one in found]
        worst = max(float(np.abs(one[-count:] - wanted[-count:]).max()) for one, count in zip(found, rows, strict=True))
        report.accuracy[name]["max_logit_difference_in_rms"] = worst / scale
