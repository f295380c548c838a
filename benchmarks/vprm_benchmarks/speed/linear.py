"""`vprm bench linear`: single Linears of VisualPRM-8B, native and by ONNX Runtime's operators, and the hardware's peak.

A Linear is all of it: float32 inputs to float32 outputs, with quantising, product and scales. Before every timed call
the same call runs once, and then caches are filled with something else, so that weights and rows come from memory for
everybody. Reading memory takes its turn in every round too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.speed.cli import Say, add_benchmark, add_rounds
from vprm_benchmarks.speed.physical import READ_BYTES, memory_reader
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_runtime import native
from vprm_runtime.cli.common import Subparsers, positive_int
from vprm_runtime.errors import InputError

if TYPE_CHECKING:
    from vprm_export.graphs.builder import LinearFormat

_SHAPES = ("4096x6144", "4096x28672", "14336x4096")  # inputs x outputs: qkv, gate and up, down
_FLUSHED = np.ones(1 << 24, np.uint64)  # 128 MB, more than any cache
_READ = "read_memory"
_FEW_TOKENS = 16  # up to here reading the weights is what counts
_OVER_ONNXRUNTIME = Goal(1.0, 2.0, "higher")
_OF_BANDWIDTH = Goal(0.7, 0.85, "higher")


def register(benchmarks: Subparsers) -> None:
    """Add the `linear` parser."""
    parser = add_benchmark(
        benchmarks,
        "linear",
        run,
        "single Linears: the native operator beside ONNX Runtime's, and the hardware's peak",
        "Time Linears from float32 inputs to float32 outputs: int8 and int4 by the native operator and by ONNX "
        "Runtime's own. Shown: TOP/s, their fraction of the peak from registers, and for few tokens weight bytes per "
        "second as a fraction of the memory bandwidth.",
    )
    add_rounds(parser, default=15)
    text = f"inputs x outputs (default: {' '.join(_SHAPES)})"
    parser.add_argument("--shapes", nargs="+", default=list(_SHAPES), metavar="KxN", help=text)
    parser.add_argument("--tokens", type=positive_int, nargs="+", default=[512, 16, 4, 1], metavar="N", help="rows")
    parser.add_argument("--precisions", nargs="+", default=["int8", "w4"], metavar="P", help="of int8, w8, w4")


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; every Linear at every number of tokens takes its turn in each round."""
    from vprm_benchmarks.speed.roofline import cpu_roofline

    formats = _formats()
    unknown = sorted(set(args.precisions) - {name.split("_")[1] for name in formats})
    if unknown:
        raise InputError(f"no precision {unknown[0]!r} for --precisions: there are int8, w8, w4")
    shapes = [_shape(text) for text in args.shapes]
    say("roofline")
    report = Report("linear", cpu_roofline(args.threads, args.roofline_size))
    report.settings = {"shapes": args.shapes, "tokens": args.tokens, "rounds": args.rounds}
    calls: dict[str, Callable[[], object]] = {}
    facts: dict[str, tuple[int, int, int, int]] = {}  # tokens, inputs, outputs, bytes of the weight
    with tempfile.TemporaryDirectory(prefix="vprm-bench-") as directory:
        for inputs, outputs in shapes:
            weight = np.random.default_rng(0).standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
            for name, linear_format in formats.items():
                if name.split("_")[1] not in args.precisions:
                    continue
                say(f"{name} {inputs} x {outputs}")
                threads = report.roofline["threads"]
                path = Path(directory) / f"{name}-{inputs}-{outputs}.onnx"
                session = _session(path, weight, linear_format, threads)
                size = path.with_suffix(".onnx.data").stat().st_size
                for tokens in args.tokens:
                    case = f"{name}_{inputs}x{outputs}_{tokens}"
                    calls[case] = _call(session, tokens, inputs, outputs)
                    facts[case] = tokens, inputs, outputs, size
                report.accuracy[f"{name}_{inputs}x{outputs}"] = {"relative_error": _error(session, weight)}
        with memory_reader(report.roofline["threads"]) as read:
            if read is not None:
                calls[_READ] = read
            report.add_times(interleaved(calls, args.rounds, warmups=1, say=say, before=_cold))
    _enter(report, facts)
    return report


def _cold(call: Callable[[], object]) -> None:
    """Before a call: its threads and code are there, caches hold something else."""
    call()
    _FLUSHED.sum()


def _shape(text: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(f"no shape {text[:40]!r} for --shapes: write inputs x outputs, as in 4096x6144")
    return int(parts[0]), int(parts[1])


def _formats() -> dict[str, LinearFormat]:
    from vprm_export.precision.linear_formats import Dequantized, TokenInt8
    from vprm_export.precision.native_linear import NativeLinear
    from vprm_export.precision.recipe import recipe_for

    w8, w4 = recipe_for("w8", "cpu"), recipe_for("w4", "cpu")
    if w8 is None or w4 is None:
        raise RuntimeError("w8 and w4 are quantised precisions")
    found: dict[str, LinearFormat] = {
        "onnxruntime_int8": TokenInt8(), "onnxruntime_w8": Dequantized(w8), "onnxruntime_w4": Dequantized(w4),
    }  # fmt: skip
    if native.level() is not None:
        kinds = {"native_int8": "int8_channel", "native_w8": "int8_group", "native_w4": "int4_group"}
        found |= {name: NativeLinear(kind) for name, kind in kinds.items()}  # type: ignore[arg-type]
    return found


def _session(path: Path, weight: NDArray[np.float32], linear_format: LinearFormat, threads: int) -> Any:
    """A graph of one Linear, x float32 [tokens, inputs] -> y, its weight mapped from a file as a bundle's are."""
    import onnx_ir as ir
    import onnxruntime

    from vprm_export.external_data import ExternalData
    from vprm_export.graphs.builder import GraphBuilder
    from vprm_export.weights import Weight
    from vprm_runtime.bundle.graph_io import GraphIO, TensorSpec

    io = GraphIO(
        (TensorSpec("x", "float32", ("tokens", weight.shape[1])),),
        (TensorSpec("y", "float32", ("tokens", weight.shape[0])),),
    )
    data = ExternalData(f"{path.name}.data")
    graph = GraphBuilder("linear", io, np.dtype(np.float32), data, lambda linear: linear_format)
    result = graph.linear(graph.inputs["x"], Weight("w", weight.shape, lambda: weight), linear="linear")
    ir.save(graph.finish([result]), path)
    data.write(path.parent, lambda count: None)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # other sessions' threads need the cores
    if native.level() is not None:
        options.register_custom_ops_library(str(native.library_path()))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _call(session: Any, tokens: int, inputs: int, outputs: int) -> Callable[[], object]:
    """The Linear on its own rows, into an array that is there already."""
    x = np.random.default_rng(tokens).standard_normal((tokens, inputs), np.float32)
    y = np.empty((tokens, outputs), np.float32)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    return partial(_run_bound, session, binding, x, y)


def _run_bound(session: Any, binding: Any, *held: NDArray[np.float32]) -> None:
    session.run_with_iobinding(binding)


def _error(session: Any, weight: NDArray[np.float32]) -> float:
    """Root mean square error over root mean square, against float32, on 16 rows."""
    x = np.random.default_rng(1).standard_normal((16, weight.shape[1]), np.float32)
    wanted = x @ weight.T
    (found,) = session.run(None, {"x": x})
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def _enter(report: Report, facts: dict[str, tuple[int, int, int, int]]) -> None:
    """TOP/s and bytes per second, as fractions of the peaks; the native Linears over ONNX Runtime's."""
    peak, bandwidth = report.roofline.get("physical_tops", {}).get("int8"), None
    if _READ in report.contenders:
        entry = report.contenders[_READ]
        bandwidth = entry["gb_per_s"] = report.roofline["threads"] * READ_BYTES / entry["median_s"] / 1e9
    for case, (tokens, inputs, outputs, size) in facts.items():
        entry = report.contenders[case]
        entry |= {"best_s": min(entry["times_s"]), "tops": 2 * tokens * inputs * outputs / entry["median_s"] / 1e12}
        if peak:
            entry["fraction_of_int8_peak"] = entry["tops"] / peak
        if tokens <= _FEW_TOKENS:
            entry["weight_gb_per_s"] = size / entry["median_s"] / 1e9
            if bandwidth:
                entry["fraction_of_bandwidth"] = entry["weight_gb_per_s"] / bandwidth
                if case.startswith("native_"):
                    report.hold(f"{case}_of_bandwidth", entry["fraction_of_bandwidth"], _OF_BANDWIDTH)
        other = case.replace("native_", "onnxruntime_")
        if case.startswith("native_") and other in facts:
            report.ratio(other, case, _OVER_ONNXRUNTIME)
            best = report.contenders[other]["best_s"] / report.contenders[case]["best_s"]
            report.add_ratio(f"{other}_over_{case}_by_best", best)
