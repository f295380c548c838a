"""`vprm shard`: cut files of rows into shards; merge the shards' scores."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vprm_runtime.cli.arguments import add_image_root, add_json
from vprm_runtime.cli.common import NOTHING_SCORED, RowBar, Subparsers, positive_int, print_json, print_stderr
from vprm_runtime.errors import InputError

if TYPE_CHECKING:
    from vprm_runtime.datasets.shard_merge import ScoredRows

_CRASHED_EXIT_CODE = 1


def register(subparsers: Subparsers) -> None:
    """Add the `shard` parser."""
    parser = subparsers.add_parser(
        "shard",
        help="cut files of rows into shards that are scored apart; merge their scores",
        description="Cut files of rows into shards. Rows about the same images and question stay together. "
        "With --merge: make one file in input order of the scores of the shards in ROWS.",
    )
    parser.add_argument("rows", nargs="+", type=Path, metavar="ROWS", help="files of rows (jsonl or parquet)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="a new directory (with --merge: a file)"
    )
    parser.add_argument("--shards", type=positive_int, metavar="K", help="how many; 5,000 to 20,000 rows each are good")
    add_image_root(parser)
    parser.add_argument(
        "--merge", type=Path, metavar="SCORES", help="directory of the scores of the shards in the directory ROWS"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Cut or merge. Returns the exit code."""
    from vprm_runtime.datasets.shard_merge import merge_scores
    from vprm_runtime.datasets.shards import ShardSet, write_shards

    if args.merge is not None:
        if len(args.rows) != 1 or args.shards is not None or args.image_root is not None:
            raise InputError("with --merge give one directory of shards and -o FILE, and nothing else")
        with RowBar("merging"):
            found = merge_scores(ShardSet.open(args.rows[0]), args.merge, args.output)
        return say_merged(args, found)
    if args.shards is None:
        raise InputError("give --shards K: into how many files the rows are cut")
    with RowBar("cutting") as bar:
        shards = write_shards(args.rows, args.output, args.shards, args.image_root, bar.advance)
    print_stderr(f"wrote {args.output}: {shards.rows} rows in {len(shards.shards)} shards")
    if args.json:
        print_json({"rows": shards.rows, "shards": [{"name": item.name, "rows": item.rows} for item in shards.shards]})
    return 0


def say_merged(args: argparse.Namespace, found: "ScoredRows", **about: float) -> int:
    """Say what outputs of shards hold, and in JSON `about` too. Returns the exit code."""
    print_stderr(f"wrote {args.output}: {found.rows} rows, {found.errors} with errors")
    if found.crashed_rows:
        print_stderr(f"set aside, because they killed the process: {found.crashed_text}")
    if args.json:
        print_json(found.to_dict() | about)
    if found.crashed_rows:
        return _CRASHED_EXIT_CODE
    return 0 if found.usable else NOTHING_SCORED
