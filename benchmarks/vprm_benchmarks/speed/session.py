"""`vprm bench session`: what a session saves over scoring whole responses anew, and what many candidates share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vprm_benchmarks.speed.bundles import BundleKind
from vprm_benchmarks.speed.cli import Say, add_benchmark, add_number, add_rounds
from vprm_benchmarks.speed.report import Goal, Report
from vprm_benchmarks.speed.stopwatch import interleaved
from vprm_benchmarks.speed.workload import WorkloadSize, workload
from vprm_runtime import StepScorer
from vprm_runtime.bundle.manifest import PRECISIONS
from vprm_runtime.cli.common import Subparsers
from vprm_runtime.results import ScoreResult

if TYPE_CHECKING:
    from vprm_benchmarks.speed.models import Model

_SESSION_GOAL = Goal(bar=10.0, stretch=20.0, better="higher")
_CANDIDATES_GOAL = Goal(bar=0.75, stretch=0.6)
_FEW, _MANY = 8, 32
_SIZES = (
    ("--layers", 2, "LLM layers of 8b-slice"),
    ("--vision-layers", 2, "vision layers of 8b-slice"),
    ("--tiles", 7, "tiles of the image, thumbnail included"),
    ("--session-steps", 20, "committed steps"),
    ("--alternatives", 4, "alternatives for the next step"),
    ("--steps", 8, "steps of a candidate"),
    ("--step-tokens", 40, "tokens of a step's text"),
)


def register(benchmarks: Subparsers) -> None:
    """Add the `session` parser."""
    parser = add_benchmark(
        benchmarks,
        "session",
        run,
        "score_next in a long session beside scoring anew; 32 candidates beside 8",
        "Commit steps to a session, then score alternatives for the next one: with score_next, as whole responses on "
        "the kept prefix, and as whole responses anew, image and question too. And score 8 and 32 candidates.",
    )
    add_rounds(parser, default=3)
    parser.add_argument("--model", choices=("demo", "8b-slice"), default="demo", help="default: demo")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the LLM (default: fp32)")
    for name, default, text in _SIZES:
        add_number(parser, name, default, text)


def run(args: argparse.Namespace, say: Say) -> Report:
    """Measure; the bundle is exported to a temporary directory."""
    from vprm_benchmarks.speed.models import Depth, Needs, prepared_model
    from vprm_benchmarks.speed.roofline import cpu_roofline

    say("roofline")
    report = Report("session", cpu_roofline(args.threads, args.roofline_size))
    names = ("model", "precision", "tiles", "session_steps", "alternatives", "steps", "step_tokens", "rounds")
    report.settings = {name: getattr(args, name) for name in names}
    if args.model == "8b-slice":
        report.settings |= {"layers": args.layers, "vision_layers": args.vision_layers}
    say("weights and bundle")
    kind = BundleKind(args.precision)
    with prepared_model(args.model, Depth(args.layers, args.vision_layers), Needs.of_bundles([kind])) as model:
        scorer = StepScorer.open(model.bundle(kind), "cpu", threads=report.roofline["threads"])
        _measure(report, scorer, model, args, say)
    return report


def _measure(report: Report, scorer: StepScorer, model: Model, args: argparse.Namespace, say: Say) -> None:
    tile_px, count = model.tile_px, model.count_tokens
    past = workload(WorkloadSize(args.tiles, 1, args.session_steps, args.step_tokens), tile_px, count)
    many = workload(WorkloadSize(args.tiles, _MANY, args.steps, args.step_tokens), tile_px, count)
    next_steps = workload(WorkloadSize(args.tiles, args.alternatives, 1, args.step_tokens), tile_px, count)
    alternatives = [steps[0] for steps in next_steps.candidates]
    whole = [[*past.candidates[0], alternative] for alternative in alternatives]
    say(f"committing {args.session_steps} steps")
    session = scorer.session(past.image, past.question, max_tiles=past.max_tiles)
    for step in past.candidates[0]:
        session.append(step)
    calls: dict[str, Callable[[], ScoreResult]] = {
        "score_next": partial(session.score_next, alternatives),
        "whole_on_kept_prefix": partial(session.score, whole),
        "whole_anew": partial(scorer.score, past.image, past.question, whole, max_tiles=past.max_tiles),
    }
    last = {name: _last_scores(call()) for name, call in calls.items()}
    for number in (_FEW, _MANY):
        candidates = many.candidates[:number]
        calls[f"best_of_{number}"] = partial(
            scorer.score, many.image, many.question, candidates, max_tiles=past.max_tiles
        )
    report.add_times(interleaved(calls, args.rounds, warmups=0, say=say))
    prompt = scorer.prepare(many.question, session.tiles, many.candidates[0])
    report.settings |= {
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
    few, lots = (report.contenders[f"best_of_{number}"]["median_s"] / number for number in (_FEW, _MANY))
    report.add_ratio(f"time_per_candidate_best_of_{_MANY}_over_best_of_{_FEW}", lots / few, _CANDIDATES_GOAL)


def _last_scores(result: ScoreResult) -> NDArray[np.float64]:
    return np.array([candidate.steps[-1].score for candidate in result.candidates])
