"""`vprm score`: candidates given as arguments, rows of a file, or the demo's example."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vprm_runtime.bundle.manifest import MANIFEST_NAME
from vprm_runtime.cli import score_shards
from vprm_runtime.cli.arguments import add_bundle, add_device, add_image_root, add_json, add_threads
from vprm_runtime.cli.common import (
    NOTHING_SCORED,
    RowBar,
    Subparsers,
    opened_bundle,
    optimised_bundle,
    positive_int,
    print_json,
    print_stderr,
    stdout_console,
)
from vprm_runtime.cli.text_argument import step_separator, text_argument
from vprm_runtime.demo import demo_hook
from vprm_runtime.errors import InputError
from vprm_runtime.execution.aggregate import AGGREGATES
from vprm_runtime.images.load import MAX_IMAGE_PIXELS
from vprm_runtime.options import ScoreOptions
from vprm_runtime.results import ScoreResult
from vprm_runtime.scorer import StepScorer

SURE = 0.8  # VisualPRM's own threshold for a correct step (InternVLRewardModel.check_correctness)
EVEN = 0.5
_STDIN = Path("-")


def register(subparsers: Subparsers) -> None:
    """Add the `score` parser."""
    parser = subparsers.add_parser(
        "score",
        help="score responses to a question about images, step by step",
        description="Score responses step by step. Without image, question and responses: the demo's example.",
    )
    add_bundle(parser)
    parser.add_argument(
        "--optimize", action="store_true",
        help="BUNDLE is a checkpoint or a hub id: make its best bundle first, once, in the cache folder",
    )  # fmt: skip
    _add_request(parser)
    _add_rows(parser)
    _add_splitting(parser)
    add_device(parser)
    add_threads(parser)
    parser.add_argument("--verify", action="store_true", help="check every hash of the bundle first")
    parser.add_argument(
        "--max-image-pixels", type=positive_int, metavar="N", default=MAX_IMAGE_PIXELS,
        help="refuse larger images before they are decoded (default: 178956970, as the original)",
    )  # fmt: skip
    add_json(parser)
    score_shards.add_arguments(parser)
    parser.set_defaults(run=run, extra="cpu")


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="image files, in order")
    parser.add_argument("--question", metavar="TEXT|@FILE", help="what the responses answer")
    parser.add_argument(
        "--response",
        action="append",
        default=[],
        metavar="TEXT|@FILE",
        help="a response, steps split on blank lines; may be repeated",
    )


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="rows to score (jsonl, parquet, or a directory of shards); - answers rows from stdin on stdout at once",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the rows' scores go (jsonl, or a directory); resumes"
    )
    parser.add_argument(
        "--keep-errors",
        action="store_true",
        help="keep rows that an earlier run left with an error (default: try again)",
    )
    parser.add_argument("--strict", action="store_true", help="end at the first row or response that has an error")
    add_image_root(parser)


def _add_splitting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-tiles", type=positive_int, metavar="N", help="tiles per image at most (default: bundle's)"
    )
    parser.add_argument(
        "--max-steps", type=positive_int, metavar="N", help="join steps to at most N (default: no limit)"
    )
    parser.add_argument("--aggregate", choices=AGGREGATES, default="mean", help="response score from step scores")
    parser.add_argument(
        "--step-separator",
        metavar="TEXT",
        help=r"split responses here; \n is a line break, \t a tabulator (default: at blank lines, \n\n)",
    )
    parser.add_argument("--drop-empty-steps", action="store_true", help="leave out steps without text")


def run(args: argparse.Namespace) -> int:
    """Score what the arguments name. Returns the exit code."""
    options = ScoreOptions(
        args.max_steps, args.max_tiles, args.aggregate, step_separator(args.step_separator), args.drop_empty_steps
    )
    if args.bundle is None and args.image and (Path(args.image[-1]) / MANIFEST_NAME).is_file():
        args.bundle = Path(args.image.pop())  # a bundle after --image is taken for one more image
    given = [name for name in ("image", "question", "response") if getattr(args, name)]
    if args.optimize:
        args.bundle = optimised_bundle(args.bundle)
    if args.input is not None or args.output is not None or args.processes is not None or args.ray is not None:
        return _run_file(args, options, given)
    if not given:
        example = demo_hook("example")()
        images, question, responses = [str(example.image)], example.question, list(example.responses)
    else:
        if args.question is None or not args.response:
            raise InputError("give --question and at least one --response, or --input and --output, or nothing at all")
        images, question = args.image, text_argument(args.question, "question") or ""
        responses = [text_argument(response, "response") or "" for response in args.response]
    scorer = _opened(args)
    result = scorer.score(
        images, question, responses,
        max_tiles=options.max_tiles, **vars(options.responses),
    )  # fmt: skip
    if args.json:
        print_json(result.to_dict(0))
    else:
        _print_result(result, question, images, scorer.engine.description)
    failed = [candidate for candidate in result if candidate.error is not None]
    if failed and args.strict:
        raise InputError(f"response {failed[0].index + 1} could not be scored: {failed[0].error}")
    return NOTHING_SCORED if result.best is None else 0


def _opened(args: argparse.Namespace) -> StepScorer:
    bundle = opened_bundle(args.bundle, args.verify)
    return StepScorer.open(bundle, args.device, threads=args.threads, max_image_pixels=args.max_image_pixels)


def _run_file(args: argparse.Namespace, options: ScoreOptions, given: Sequence[str]) -> int:
    from vprm_runtime.datasets import score_file

    if score_shards.is_asked_for(args) and not given:
        return score_shards.run(args, options)
    if args.input == _STDIN:
        return _run_stream(args, options, given)
    if args.output == _STDIN:
        raise InputError(
            "a file of rows is scored into a file, so that a run can go on; for stdout use  --input - < FILE"
        )
    if args.input is None or args.output is None or given:
        raise InputError("for a file of rows give --input and --output, and no --image, --question or --response")
    scorer = _opened(args)
    with RowBar("scoring") as bar:
        summary = score_file(
            scorer, args.input, args.output, image_root=args.image_root, options=options, progress=bar.advance,
            keep_errors=args.keep_errors, strict=args.strict,
        )  # fmt: skip
    retried = f", {summary.retried} tried again" if summary.retried else ""
    written = (
        f"wrote {args.output}: {summary.rows} rows, {summary.errors} with errors ({summary.scored} done now{retried}, "
        f"{summary.resumed} before)"
    )
    print_stderr(written)
    if args.json:
        print_json(summary.to_dict())
    return 0 if summary.usable else NOTHING_SCORED


def _run_stream(args: argparse.Namespace, options: ScoreOptions, given: Sequence[str]) -> int:
    from vprm_runtime.datasets import score_stream
    from vprm_runtime.datasets.row_files import bounded_lines
    from vprm_runtime.datasets.score_log import first_error, has_error, has_scores
    from vprm_runtime.datasets.source import check_image_root

    if args.output is not None or given or args.json:
        raise InputError("rows from stdin are answered on stdout, a line each: leave out --output, --json and the rest")
    root = args.image_root or Path()
    check_image_root(root)
    scorer = _opened(args)
    print_stderr(f"ready: {scorer.engine.description}")

    rows = usable = 0

    def answer(document: dict[str, Any]) -> None:
        nonlocal rows, usable
        sys.stdout.buffer.write(json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        sys.stdout.buffer.flush()
        rows, usable = rows + 1, usable + has_scores(document)
        if args.strict and has_error(document):
            raise InputError(f"row {document['row']}: {first_error(document)}")

    score_stream(scorer, bounded_lines(sys.stdin.buffer, "stdin"), answer, image_root=root, options=options)
    return NOTHING_SCORED if rows and not usable else 0


def _print_result(result: ScoreResult, question: str, images: Sequence[str], engine: str) -> None:
    console = stdout_console()
    tiles = ", ".join(
        f"{Path(image).name} ({count} tile{'s' if count > 1 else ''})"
        for image, count in zip(images, result.tiles, strict=True)
    )
    console.print(Text.assemble(("Question  ", "bold"), question))
    console.print(Text.assemble(("Images    ", "bold"), tiles or "none"))
    console.print(Text.assemble(("Engine    ", "bold"), engine), highlight=False)
    for candidate in result.candidates:
        is_best = candidate.index == result.best
        title = Text(
            f"Response {candidate.index + 1}" + ("  ★ best" if is_best else ""), "bold green" if is_best else "bold"
        )
        if candidate.score is None:
            console.print(Text.assemble(title, "  ", (f"not scored: {candidate.error}", "red")))
            continue
        table = Table(title=title, title_justify="left", show_edge=False, expand=True)
        table.add_column("step", width=4, justify="right")
        table.add_column("text", ratio=1)
        table.add_column("score", width=7, justify="right")
        for number, step in enumerate(candidate.steps, 1):
            table.add_row(
                str(number), Text(step.text, _colour(step.score)), Text(f"{step.score:.3f}", _colour(step.score))
            )
        table.add_section()
        table.add_row("", Text("response", "bold"), Text(f"{candidate.score:.3f}", f"bold {_colour(candidate.score)}"))
        console.print()
        console.print(table)


def _colour(score: float) -> str:
    return "green" if score > SURE else "yellow" if score > EVEN else "red"
