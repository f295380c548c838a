"""`vprm eval`: how good a PRM is, on labelled steps or at choosing among responses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vprm_runtime.cli.arguments import add_bundle, add_device, add_image_root, add_json, add_threads
from vprm_runtime.cli.common import (
    RowBar,
    Subparsers,
    check_output_file,
    positive_int,
    print_json,
    print_stderr,
    resolve_bundle,
    stdout_console,
)
from vprm_runtime.execution.aggregate import AGGREGATES
from vprm_runtime.files import write_whole
from vprm_runtime.options import MODEL_CARD_MAX_STEPS

if TYPE_CHECKING:
    from vprm_benchmarks.evaluation.page_parts import PageContext
    from vprm_benchmarks.evaluation.scored import DataFile
    from vprm_report import Page
    from vprm_runtime import StepScorer

DEMO_HELD_OUT, DEMO_BEST_OF_N = 1000, 200  # rows of the built-in data


def register(subparsers: Subparsers) -> None:
    """Add the `eval` parser and its two kinds. Nothing heavy is imported before one runs."""
    parser = subparsers.add_parser(
        "eval",
        help="measure how good a PRM is: step verdicts, best of N",
        description="Measure how good a PRM is. Rows without image or label are listed and counted, never scored 0.",
    )
    parser.set_defaults(extra="eval")
    kinds = parser.add_subparsers(title="evaluations", metavar="KIND", required=True)
    _register_process(kinds)
    _register_best_of_n(kinds)


def _register_process(kinds: Subparsers) -> None:
    parser = kinds.add_parser(
        "processbench",
        help="macro F1, AUC and first errors on labelled steps (VisualProcessBench)",
        description="Evaluate step verdicts as VisualProcessBench does: macro F1 pooled and step-weighted, by source "
        "and policy model, with bootstrap intervals. Without --data: the demo's held-out rows.",
    )
    _add_common(parser, DEMO_HELD_OUT)
    parser.add_argument(
        "--threshold",
        type=float,
        action="append",
        metavar="T",
        help="call a step right when its score is above T; may be repeated (default: 0.5 0.8 0.85)",
    )
    parser.set_defaults(run=run_process)


def _register_best_of_n(kinds: Subparsers) -> None:
    parser = kinds.add_parser(
        "best-of-n",
        help="accuracy of the response a PRM chooses, against pass@1, votes and pass@N",
        description="Evaluate the choice among N responses, for N = 1, 2, 4, ... Rows need responses, and the right "
        "answer or a list `correct`. Without --data: the demo's best-of-8 rows.",
    )
    _add_common(parser, DEMO_BEST_OF_N)
    parser.add_argument(
        "--aggregate", choices=AGGREGATES, default="mean", help="response score in the headline (all are reported)"
    )
    parser.add_argument(
        "--max-steps",
        type=positive_int,
        default=MODEL_CARD_MAX_STEPS,
        metavar="N",
        help=f"join steps to at most N (default: {MODEL_CARD_MAX_STEPS})",
    )
    parser.set_defaults(run=run_best_of_n)


def _add_common(parser: argparse.ArgumentParser, demo_rows: int) -> None:
    add_bundle(parser)
    parser.add_argument("--data", type=Path, metavar="FILE", help="rows, jsonl or parquet (default: the demo's)")
    add_image_root(parser)
    parser.add_argument("--scores", type=Path, metavar="FILE", help="keep the scores (jsonl) and go on from them")
    parser.add_argument("--max-tiles", type=positive_int, metavar="N", help="tiles per image at most")
    parser.add_argument(
        "--bootstrap", type=positive_int, default=1000, metavar="N", help="samples for intervals (default: 1000)"
    )
    parser.add_argument(
        "--demo-rows", type=positive_int, default=demo_rows, metavar="N", help=f"built-in rows (default: {demo_rows})"
    )
    add_device(parser)
    add_threads(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a self-contained page")
    parser.add_argument("--html-rows", type=positive_int, default=200, metavar="N", help="rows on it (default: 200)")
    add_json(parser)


def run_process(args: argparse.Namespace) -> int:
    """Score and evaluate labelled steps. Returns the exit code."""
    from vprm_benchmarks.evaluation.process_page import process_page
    from vprm_benchmarks.evaluation.processbench import (
        THRESHOLDS,
        ProcessBenchOptions,
        evaluate_process,
        labelled_samples,
    )
    from vprm_benchmarks.evaluation.scored import DataFile, score_rows
    from vprm_demo import held_out_rows
    from vprm_runtime import ScoreOptions

    options = ProcessBenchOptions(tuple(args.threshold or THRESHOLDS), args.bootstrap)
    check_output_file(args.html)
    scorer = _open_scorer(args)
    data = DataFile(args.data or held_out_rows(args.demo_rows), args.image_root)
    _say_what_is_kept(args)
    with RowBar("scoring steps") as bar:
        scored = score_rows(scorer, data, ScoreOptions(max_tiles=args.max_tiles), args.scores, bar.advance)
    bench = evaluate_process(scored, options)
    samples, _ = labelled_samples(scored.rows)
    context = _context(args, scorer, data)
    page = process_page(bench, samples, context)
    return _finish(args, {**_head("processbench", context), **bench.to_json()}, page)


def run_best_of_n(args: argparse.Namespace) -> int:
    """Score and evaluate choices among responses. Returns the exit code."""
    from vprm_benchmarks.evaluation.answers import AnswerJudge
    from vprm_benchmarks.evaluation.best_of_n import evaluate_best_of_n, questions_from_scored
    from vprm_benchmarks.evaluation.choice_page import best_of_n_page
    from vprm_benchmarks.evaluation.scored import DataFile, score_rows
    from vprm_demo import best_of_n_rows
    from vprm_runtime import ScoreOptions

    judge = AnswerJudge()
    check_output_file(args.html)
    scorer = _open_scorer(args)
    data = DataFile(args.data or best_of_n_rows(args.demo_rows), args.image_root)
    _say_what_is_kept(args)
    options = ScoreOptions(args.max_steps, args.max_tiles)
    with RowBar("scoring responses by steps and as a whole") as bar:
        scored = score_rows(scorer, data, options, args.scores, bar.advance, with_outcome=True)
    questions, left_out = questions_from_scored(scored, judge)
    bench = evaluate_best_of_n(questions, left_out, judge, args.aggregate, args.bootstrap)
    context = _context(args, scorer, data)
    page = best_of_n_page(bench, questions, context)
    return _finish(args, {**_head("best-of-n", context), **bench.to_json()}, page)


def _say_what_is_kept(args: argparse.Namespace) -> None:
    """Without --scores an interrupted evaluation begins anew: said before the hours are spent."""
    if args.scores is None:
        text = "the scores are kept in no file: if this is interrupted, it begins anew; --scores FILE keeps them"
        print_stderr(text)


def _open_scorer(args: argparse.Namespace) -> StepScorer:
    from vprm_runtime import StepScorer

    return StepScorer.open(resolve_bundle(args.bundle), args.device, threads=args.threads)


def _context(args: argparse.Namespace, scorer: StepScorer, data: DataFile) -> PageContext:
    from vprm_benchmarks.evaluation.page_parts import PageContext

    tiling = scorer.manifest.tiling.limited(args.max_tiles)
    name = data.path.name if args.data else f"the demo's held-out rows ({data.path.parent.name})"
    return PageContext(data, name, scorer.manifest.model.name, scorer.engine.description, tiling, args.html_rows)


def _head(kind: str, context: PageContext) -> dict[str, Any]:
    return {"evaluation": kind, "data": context.data_name, "model": context.model, "engine": context.engine}


def _finish(args: argparse.Namespace, document: dict[str, Any], page: Page) -> int:
    """Write what was asked for."""
    if args.html is not None:
        from vprm_report import html_from_page

        write_whole(args.html, html_from_page(page).encode())
        print_stderr(f"wrote {args.html}")
    if args.json:
        print_json(document)
    else:
        _print_page(page)
    return 0


def _print_page(page: Page) -> None:
    """The page's tables, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    console.print(Text(page.title, "bold"), Text(page.subtitle, "dim"), sep="\n")
    for table in page.tables:
        shown = Table(title=Text(table.title), title_justify="left", show_edge=False)
        for number, column in enumerate(table.columns):
            shown.add_column(Text(column), justify="right" if number else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print()
        console.print(shown)
        if table.note:
            console.print(Text(table.note, "dim"))
