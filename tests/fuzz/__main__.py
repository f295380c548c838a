"""`python -m tests.fuzz KIND [--count N] [--seed S]`: a long campaign; exit code 1 if it finds anything.

A trial of each kind is a seed: a mutated file or text, 80 calls from eight threads, one flipped bit, or one kill -9.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz.campaigns import KINDS, TIME_LIMIT_S, folder_of, run, trial_of
from tests.fuzz.kills import KILLS, run_kills
from tests.fuzz.shared import SHARED

from vprm_runtime.demo import demo_hook

_SHARED_LIMIT_S = 300


def main() -> int:
    """Run one kind's trials."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=(*KINDS, *SHARED, *KILLS))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, help="default: the demo's")
    args = parser.parse_args()
    bundle = args.bundle or demo_hook("bundle")()
    seeds = range(args.seed, args.seed + args.count)

    def found(seed: int, error: BaseException) -> None:
        sys.stdout.write(f"seed {seed}: {''.join(traceback.format_exception(error)[-6:])}\n")

    with tempfile.TemporaryDirectory(prefix="vprm-fuzz-") as work:
        outcomes: Counter[str]
        folder = folder_of(args.kind, Path(work))
        if args.kind in KILLS:
            outcomes = run_kills(args.kind, seeds, folder, bundle, found)
        elif args.kind in SHARED:
            outcomes = run(args.kind, SHARED[args.kind](folder, bundle), seeds, found, _SHARED_LIMIT_S)
        else:
            outcomes = run(args.kind, trial_of(args.kind, folder, bundle), seeds, found, TIME_LIMIT_S)
    sys.stdout.write(f"{args.kind}, seeds {seeds[0]} to {seeds[-1]}: {dict(outcomes)}\n")
    return int(outcomes["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
