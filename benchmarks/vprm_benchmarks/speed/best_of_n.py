"""`vprm bench best-of-n`: one request, from an image and texts to scores, by everyone, in turns.

For `8b-slice` two depths are run, half and all of the layers asked for, in the same rounds. Time is a straight line in
the number of layers, for the vision encoder and for the rest, so two depths give the time of VisualPRM-8B's 24 and 32
layers, with an error bar from the rounds; if more layers were not slower there is an error instead of a figure. A
saving in the last layer alone is not multiplied by the extrapolation.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vprm_benchmarks.speed.cli import Say, add_benchmark, add_number, add_rounds
from vprm_benchmarks.speed.extrapolation import LEAST_ROUNDS, Depths, Extrapolated, extrapolated
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_benchmarks.speed.workload import Workload, WorkloadSize, workload
from vprm_runtime import native
from vprm_runtime.cli.common import Subparsers
from vprm_runtime.errors import InputError
from vprm_runtime.native import Level

if TYPE_CHECKING:
    from vprm_benchmarks.speed.contenders import Contender, Scores
    from vprm_benchmarks.speed.models import Depth
    from vprm_benchmarks.speed.request_flops import RequestFlops

_OURS = "vprm_int8_vision_int8"
_GOALS = {  # of 8b-slice at full depth, 7 tiles, 8 candidates of 8 steps of 40 tokens, on two cores
    ("torch_per_step_bf16", "vprm_int8"): Goal(25.0, 40.0, "higher"),
    ("torch_prefix_fp32", "vprm_fp32"): Goal(1.0, 1.3, "higher"),
}
_AVX512_GOALS = {
    ("torch_one_pass_bf16", _OURS): Goal(6.0, 9.5, "higher"),
    ("torch_prefix_bf16", _OURS): Goal(1.8, 2.3, "higher"),
    ("openvino_prefix_bf16", _OURS): Goal(1.2, 1.5, "higher"),
}
_AMX_GOALS = {
    ("torch_one_pass_bf16", _OURS): Goal(9.5, 12.0, "higher"),
    ("torch_prefix_bf16", _OURS): Goal(2.3, 3.0, "higher"),
    ("openvino_prefix_bf16", _OURS): Goal(1.5, 2.0, "higher"),
}
_REFERENCE = "torch_prefix_fp32"
_NO_SECONDS = Extrapolated(0.0, 0.0, 0.0)


def register(benchmarks: Subparsers) -> None:
    """Add the `best-of-n` parser."""
    parser = add_benchmark(
        benchmarks,
        "best-of-n",
        run,
        "best of N by PyTorch in three ways and by this package",
        "Score N candidates for one image and question. Contenders: PyTorch (transformers, SDPA) with a pass for "
        "every step, with a pass for every candidate, and with the prefix run once; PyTorch's networks converted to "
        "OpenVINO, with the prefix run once; this package's bundles. The model "
        "is the demo PRM, or random weights in VisualPRM-8B's layer shapes at two depths, extrapolated to its full "
        "depth. Scores are compared too.",
    )
    add_rounds(parser, default=3)
    parser.add_argument("--model", choices=("demo", "8b-slice"), default="demo", help="default: demo")
    add_number(parser, "--layers", 4, "LLM layers of 8b-slice, even")
    add_number(parser, "--vision-layers", 4, "vision layers of 8b-slice, even")
    add_number(parser, "--tiles", 7, "tiles of the image, thumbnail included")
    add_number(parser, "--candidates", 8, "candidates")
    add_number(parser, "--steps", 8, "steps of a candidate")
    add_number(parser, "--step-tokens", 40, "tokens of a step's text")
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        help="who takes part (default: those of the goals, and OpenVINO's on the demo; an unknown name lists all)",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="and optimum's exports of the language model, in an environment of their own, which is made once",
    )


@dataclass
class _Seconds:
    """What one contender took for a whole request at one depth, in each round."""

    total_s: list[float]
    vision_s: list[float]

    @property
    def vision(self) -> float:
        return statistics.median(self.vision_s)

    @property
    def language(self) -> float:
        """Everything but tiling and the vision encoder."""
        return statistics.median(self.language_s)

    @property
    def language_s(self) -> list[float]:
        return [total - vision for total, vision in zip(self.total_s, self.vision_s, strict=True)]


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; every contender starts from the image and the texts."""
    from vprm_benchmarks.speed.contenders.choice import choose_contenders
    from vprm_benchmarks.speed.models import Depth
    from vprm_benchmarks.speed.roofline import cpu_roofline

    names, absent = choose_contenders(args.contenders, args.model, args.peers)
    full = Depth(args.layers, args.vision_layers)
    if args.model == "8b-slice" and (full.layers % 2 or full.vision_layers % 2):
        raise InputError("--layers and --vision-layers must be even: half of them are run too")
    if args.model == "8b-slice" and args.rounds < LEAST_ROUNDS:
        raise InputError(
            f"--rounds must be at least {LEAST_ROUNDS} for 8b-slice: its times are extrapolated from medians"
        )
    size = WorkloadSize(args.tiles, args.candidates, args.steps, args.step_tokens)
    say("roofline")
    report = Report("best-of-n", cpu_roofline(args.threads, args.roofline_size))
    report.settings = {"model": args.model, **asdict(full), **asdict(size), "rounds": args.rounds}
    half = Depth(full.layers // 2, full.vision_layers // 2)
    depths = (half, full) if args.model == "8b-slice" else (full,)
    by_depth, flops = _measure(args, depths, size, names, report, absent, say)
    _enter(report, by_depth, full)
    _enter_fractions(report, flops, full)
    _compare_peers(report, args.model)
    report.contenders |= {name: {"skipped": reason} for name, reason in absent.items()}
    key = "full_depth_s" if args.model == "8b-slice" else "median_s"
    for (slow, fast), goal in (_GOALS | (_AMX_GOALS if native.level() is Level.AMX else _AVX512_GOALS)).items():
        if all(key in report.contenders.get(name, {}) for name in (slow, fast)):
            report.ratio(slow, fast, goal if args.model == "8b-slice" else None, key)
    return report


def _measure(
    args: argparse.Namespace,
    depths: Sequence[Depth],
    size: WorkloadSize,
    names: Sequence[str],
    report: Report,
    absent: dict[str, str],
    say: Say,
) -> tuple[dict[Depth, dict[str, _Seconds]], dict[Depth, RequestFlops]]:
    """Seconds of all contenders at all depths, in the same rounds, and the request's arithmetic.

    The last depth's scores are compared.
    """
    from vprm_benchmarks.speed.contenders.choice import References, needs_of, open_contenders
    from vprm_benchmarks.speed.models import prepared_model
    from vprm_benchmarks.speed.peers.contender import KINDS
    from vprm_benchmarks.speed.request_flops import RequestFlops

    full, threads = depths[-1], report.roofline["threads"]
    turns: dict[str, tuple[Depth, Contender]] = {}
    scores: dict[str, Scores] = {}
    vision_s: dict[str, list[float]] = {}
    with ExitStack() as models:
        say("writing weights")
        by_depth = {depth: models.enter_context(prepared_model(args.model, depth, needs_of(names))) for depth in depths}
        model = by_depth[full]
        work = workload(size, model.tile_px, model.count_tokens)
        flops = {depth: RequestFlops.of(one, work, size.tiles) for depth, one in by_depth.items()}
        references = References(model.checkpoint, full)
        for depth in depths:
            reference = partial(references.at, depth=depth)
            opened = open_contenders(names, by_depth[depth], reference, size.candidates, threads, say, absent)
            turns |= {_turn_name(name, depth, full): (depth, contender) for name, contender in opened.items()}
        small = Workload(work.image, work.max_tiles, work.question, (work.candidates[0][:1],))
        for turn, (_, contender) in turns.items():
            say(f"warm-up: {turn}")
            contender.scores(small)
            vision_s[turn] = []
        calls = {turn: partial(_turn, one, work, scores, vision_s, turn) for turn, (_, one) in turns.items()}
        times = interleaved(calls, args.rounds, warmups=0, say=say)
    _compare(report, {name: scores[name] for name in names if name not in KINDS}, size)
    found: dict[Depth, dict[str, _Seconds]] = {depth: {} for depth in depths}
    for turn, (depth, one) in turns.items():
        found[depth][one.name] = _Seconds(*([one.calls * taken for taken in part[turn]] for part in (times, vision_s)))
        if depth == full:
            _describe(report, one)
    return found, flops


def _describe(report: Report, one: Contender) -> None:
    from vprm_benchmarks.speed.peers.contender import PeerContender

    report.contenders[one.name] = {"description": one.description}
    if isinstance(one, PeerContender):
        report.contenders[one.name]["cannot"] = list(one.cannot)
        report.accuracy[one.name] = {"text_logit_difference_in_rms": one.text_difference_in_rms}


def _turn_name(name: str, depth: Depth, full: Depth) -> str:
    return name if depth == full else f"{name}, {depth.layers} + {depth.vision_layers} layers"


def _turn(
    contender: Contender,
    work: Workload,
    scores: dict[str, Scores],
    vision_s: dict[str, list[float]],
    name: str,
) -> None:
    before = contender.vision_s
    scores[name] = contender.scores(work)
    vision_s[name].append(contender.vision_s - before)


def _compare(report: Report, scores: Mapping[str, Scores], size: WorkloadSize) -> None:
    """Differences of step scores from the float32 reference; the choice among candidates by the mean."""
    if _REFERENCE not in scores:
        return
    wanted = scores[_REFERENCE]
    for name, found in scores.items():
        difference = np.abs(found - wanted[: len(found)])
        entry: dict[str, Any] = {"mean_difference": float(difference.mean()), "max_difference": float(difference.max())}
        if len(found) == len(wanted):
            entry["same_choice"] = bool(_choice(found, size) == _choice(wanted, size))
        report.accuracy[name] = entry


def _choice(scores: Scores, size: WorkloadSize) -> int:
    return int(scores.reshape(size.candidates, size.steps).mean(axis=1).argmax())


def _enter(report: Report, by_depth: Mapping[Depth, Mapping[str, _Seconds]], full: Depth) -> None:
    """Medians at the depth asked for, and on the line through both depths at VisualPRM-8B's."""
    from vprm_benchmarks.speed.models import FULL_LAYERS, FULL_VISION_LAYERS

    for name, measured in by_depth[full].items():
        report.add_times({name: measured.total_s})
        entry = report.contenders[name]
        entry |= {"vision_s": measured.vision, "language_s": measured.language}
        for depth, seconds in by_depth.items():
            if depth != full and name in seconds:
                other = seconds[name]
                entry["half_depth"] = {"vision_s": other.vision, "language_s": other.language}
                layers = Depths(depth.layers, full.layers, FULL_LAYERS)
                vision_layers = Depths(depth.vision_layers, full.vision_layers, FULL_VISION_LAYERS)
                try:
                    sees = any(measured.vision_s)  # peers run the language model alone
                    vision = extrapolated(vision_layers, other.vision_s, measured.vision_s) if sees else _NO_SECONDS
                    language = extrapolated(layers, other.language_s, measured.language_s)
                    whole = vision + language
                except ValueError as error:
                    entry["full_depth_error"] = str(error)
                    continue
                entry |= {"full_depth_vision_s": vision.seconds, "full_depth_s": whole.seconds}
                entry["full_depth_language_s"] = language.seconds
                entry |= {"full_depth_low_s": whole.low_s, "full_depth_high_s": whole.high_s}


def _compare_peers(report: Report, model: str) -> None:
    """The language model's part of the request: peers over this package."""
    from vprm_benchmarks.speed.peers.contender import KINDS

    key = "full_depth_language_s" if model == "8b-slice" else "language_s"
    for peer in KINDS:
        for own in ("vprm_fp32", "vprm_int8"):
            theirs, ours = (report.contenders.get(name, {}).get(key) for name in (peer, own))
            if theirs and ours:
                report.add_ratio(f"{peer}_over_{own}_language", theirs / ours)


def _enter_fractions(report: Report, flops: Mapping[Depth, RequestFlops], full: Depth) -> None:
    """What the request asks for, over the seconds it took, as a fraction of the peak from registers in that type."""
    from vprm_benchmarks.speed.models import FULL_LAYERS, FULL_VISION_LAYERS

    asked = {"median_s": flops[full].total}
    for depth, half in flops.items():
        if depth != full:
            layers = Depths(depth.layers, full.layers, FULL_LAYERS)
            vision_layers = Depths(depth.vision_layers, full.vision_layers, FULL_VISION_LAYERS)
            vision = vision_layers.at(half.vision, flops[full].vision)
            asked["full_depth_s"] = vision + layers.at(half.llm, flops[full].llm)
    for name, entry in report.contenders.items():
        if "cannot" in entry:  # does less than the request asks for
            continue
        kind = next((kind for kind in ("int8", "fp32") if kind in name), "bf16")
        peak = report.roofline["physical_tops"].get(kind)
        for key, operations in asked.items():
            if peak and key in entry:
                fraction = "fraction_of_physical_peak" if key == "median_s" else "full_depth_fraction_of_physical_peak"
                entry[fraction] = operations / entry[key] / 1e12 / peak
