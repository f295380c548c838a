"""`vprm bench session`: what a session saves over scoring whole responses anew, and what many candidates share."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.gpu.workload import workload
from vprm_benchmarks.speed.common import Say, add_benchmark, add_rounds
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.timing import interleaved
from vprm_runtime import ScoreOptions, StepScorer
from vprm_runtime.cli.common import Subparsers, positive_int
from vprm_runtime.manifest import Precision
from vprm_runtime.results import ScoreResult

_SESSION_GOAL = Goal(bar=10.0, stretch=20.0, better="higher")
_CANDIDATES_GOAL = Goal(bar=0.75, stretch=0.6)
_FEW, _MANY = 8, 32
_SIZES = (
    ("--layers", 2, "L", "LLM layers of 8b-slice"),
    ("--vision-layers", 2, "V", "vision layers of 8b-slice"),
    ("--max-tiles", 6, "N", "tiles at most, a thumbnail not counted"),
    ("--steps", 20, "S", "committed steps"),
    ("--alternatives", 4, "N", "alternatives for the next step"),
    ("--candidate-steps", 8, "S", "steps of each candidate"),
    ("--step-words", 12, "W", "words of each step"),
)


def register(benchmarks: Subparsers) -> None:
    """Add the `session` parser."""
    parser = add_benchmark(
        benchmarks,
        "session",
        run,
        "score_next in a long session beside scoring anew; 32 candidates beside 8",
        "Commit steps to a session, then score alternatives for the next one: with score_next, as whole responses on "
        "the kept prefix, and as whole responses anew, picture and question too. And score 8 and 32 candidates.",
    )
    add_rounds(parser, default=3)
    parser.add_argument(
        "--model", choices=("demo", "8b-slice", "tiny"), default="demo", help="the demo PRM, or random weights"
    )
    for name, default, letter, text in _SIZES:
        parser.add_argument(
            name, type=positive_int, default=default, metavar=letter, help=f"{text} (default: {default})"
        )
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="of the LLM (default: fp32)")


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; the bundle is exported to a temporary directory."""
    from vprm_benchmarks.speed.roofline import cpu_roofline

    say("roofline")
    report = Report("session", cpu_roofline(args.threads, args.roofline_size))
    names = ("model", "precision", "max_tiles", "steps", "alternatives", "candidate_steps", "step_words", "rounds")
    report.settings = {name: getattr(args, name) for name in names}
    if args.model == "8b-slice":
        report.settings |= {"layers": args.layers, "vision_layers": args.vision_layers}
    with tempfile.TemporaryDirectory() as folder:
        say("export")
        bundle = _bundle(args, Path(folder))
        _measure(report, StepScorer.open(bundle, "cpu", threads=report.roofline["threads"]), args, say)
    return report


def _measure(report: Report, scorer: StepScorer, args: argparse.Namespace, say: Say) -> None:
    options = ScoreOptions(max_tiles=args.max_tiles)
    size = scorer.manifest.tiling.tile_size_px
    past = workload(1, size, args.steps, args.step_words)
    alternatives = [steps[0] for steps in workload(args.alternatives + 1, size, 1, args.step_words).candidates[1:]]
    whole = [[*past.candidates[0], alternative] for alternative in alternatives]
    say(f"committing {args.steps} steps")
    session = scorer.session(past.image, past.question, options)
    for step in past.candidates[0]:
        session.append(step)
    calls: dict[str, Callable[[], ScoreResult]] = {
        "score_next": partial(session.score_next, alternatives),
        "whole_on_kept_prefix": partial(session.score, whole),
        "whole_anew": partial(scorer.score, past.image, past.question, whole, options),
    }
    last = {name: _last_scores(call()) for name, call in calls.items()}
    many = workload(_MANY, size, args.candidate_steps, args.step_words)
    for count in (_FEW, _MANY):
        calls[f"best_of_{count}"] = partial(scorer.score, many.image, many.question, many.candidates[:count], options)
    report.add_times(interleaved(calls, args.rounds, warmups=0, say=say))
    prompt = scorer.prepare(many.question, session.tiles, many.candidates[0])
    report.settings |= {
        "tiles": session.tiles[0],
        "prefix_tokens": session.prefix_tokens,
        "candidate_tokens": len(prompt.ids) - session.prefix_tokens,
    }
    report.accuracy = {
        "largest_difference_from_anew": {
            name: float(np.abs(scores - last["whole_anew"]).max()) for name, scores in last.items()
        }
    }
    report.ratio("whole_anew", "score_next", _SESSION_GOAL)
    report.ratio("whole_on_kept_prefix", "score_next")
    few, lots = (report.competitors[f"best_of_{count}"]["median_s"] / count for count in (_FEW, _MANY))
    report.add_ratio(f"time_per_candidate_best_of_{_MANY}_over_best_of_{_FEW}", lots / few, _CANDIDATES_GOAL)


def _last_scores(result: ScoreResult) -> NDArray[np.float64]:
    return np.array([candidate.steps[-1].score for candidate in result.candidates])


def _bundle(args: argparse.Namespace, folder: Path) -> Path:
    from vprm_benchmarks.random_checkpoint import tiny_spec, visualprm_8b_spec, write_random_checkpoint
    from vprm_demo import checkpoint_dir
    from vprm_export import ExportOptions, export_bundle

    if args.model == "demo":
        checkpoint = checkpoint_dir()
    else:
        spec = tiny_spec() if args.model == "tiny" else visualprm_8b_spec(args.layers, args.vision_layers)
        checkpoint = write_random_checkpoint(folder / "checkpoint", spec)
    export_bundle(checkpoint, folder / "bundle", ExportOptions(args.precision))
    return folder / "bundle"
