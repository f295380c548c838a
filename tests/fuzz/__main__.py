"""`python -m tests.fuzz KIND [--count N] [--seed S]`: a long campaign; exit code 1 if it finds anything."""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz.campaigns import CAMPAIGNS, run

from vprm_runtime.demo import demo_hook


def main() -> int:
    """Run one kind's trials."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=CAMPAIGNS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path, help="default: the demo's")
    args = parser.parse_args()
    bundle = args.bundle or demo_hook("bundle")()

    def found(seed: int, error: Exception) -> None:
        sys.stdout.write(f"seed {seed}: {''.join(traceback.format_exception(error)[-6:])}\n")

    with tempfile.TemporaryDirectory(prefix="vprm-fuzz-") as work:
        outcomes = run(args.kind, range(args.seed, args.seed + args.count), Path(work), bundle, found)
    sys.stdout.write(f"{args.kind}, seeds {args.seed} to {args.seed + args.count - 1}: {dict(outcomes)}\n")
    return int(outcomes["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
