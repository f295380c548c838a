"""`python -m vprm_benchmarks.gpu --json --out DIR`: parity, speed and memory of every engine found here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vprm_benchmarks.gpu.chart import draw
from vprm_benchmarks.gpu.suite import MODELS, Suite, SuiteOptions


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; the JSON document is the last line on stdout, and DIR/gpu.json."""
    parser = argparse.ArgumentParser(prog="python -m vprm_benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for weights, bundles and the report")
    parser.add_argument("--json", action="store_true", help="print the JSON document as the last line on stdout")
    parser.add_argument("--model", choices=MODELS, default="8b", help="size of the random model (default: 8b)")
    parser.add_argument("--layers", type=int, default=8, help="LLM layers of 8b-slice (default: 8)")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "int8", "fp8"], help="on a GPU, in this order")
    parser.add_argument("--best-of", type=int, nargs="+", default=[8, 32], metavar="N")
    parser.add_argument("--prefill", type=int, nargs="+", default=[2048, 4096], metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--budget-s", type=float, default=480.0, help="begin nothing new after this many seconds")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    options = SuiteOptions(
        args.out, args.model, args.layers, tuple(args.precisions), tuple(args.best_of), tuple(args.prefill),
        args.rounds, args.budget_s,
    )  # fmt: skip
    report = Suite(options, say=lambda text: print(text, file=sys.stderr)).run()  # noqa: T201 - progress
    try:
        draw(report, args.out / "gpu.png")
    except ImportError as error:
        report["plot"] = f"not drawn: {error}"
    (args.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    if args.json:
        print(json.dumps(report))  # noqa: T201 - the command's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
