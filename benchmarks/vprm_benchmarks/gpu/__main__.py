"""`python -m vprm_benchmarks.gpu --json --out DIR`: parity, speed and memory of every engine found here."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from vprm_benchmarks.gpu.chart import draw
from vprm_benchmarks.gpu.environment import roomy_folder
from vprm_benchmarks.gpu.suite import MODELS, Suite, SuiteOptions
from vprm_benchmarks.random_checkpoint import tensor_plans
from vprm_runtime.engines.cuda.tensorrt.engine_file import LIBRARIES
from vprm_runtime.engines.cuda.tensorrt.graph import is_installed


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; DIR/gpu.json and DIR/gpu.png grow with it, and with --json the document is the last line."""
    parser = argparse.ArgumentParser(prog="python -m vprm_benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the report and its picture")
    parser.add_argument("--json", action="store_true", help="print the JSON document as the last line on stdout")
    parser.add_argument("--model", choices=MODELS, default="8b", help="size of the random model (default: 8b)")
    parser.add_argument("--layers", type=int, default=8, help="LLM layers of 8b-slice (default: 8)")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "int8", "fp8"], help="on a GPU, in this order")
    parser.add_argument("--best-of", type=int, nargs="+", default=[8, 32], metavar="N")
    parser.add_argument("--prefill", type=int, nargs="+", default=[2048, 4096], metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--budget-s", type=float, default=450.0, help="begin nothing new after this many seconds")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for weights and bundles, kept (default: temporary)")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.work is not None:
        args.work.mkdir(parents=True, exist_ok=True)
        report = _run(args, args.work)
    else:
        with tempfile.TemporaryDirectory(dir=roomy_folder(_needed_bytes(args)), prefix="vprm-gpu-") as work:
            report = _run(args, Path(work))
    if args.json:
        print(json.dumps(report))  # noqa: T201 - the command's output
    return 0


def _run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    def save(report: dict[str, Any]) -> None:
        try:
            draw(report, args.out / "gpu.png")
        except ImportError as error:
            report["plot"] = f"not drawn: {error}"
        part = args.out / "gpu.json.part"
        part.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        part.replace(args.out / "gpu.json")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress

    return Suite(_options(args, work), say, save).run()


def _options(args: argparse.Namespace, work: Path) -> SuiteOptions:
    return SuiteOptions(
        work, args.model, args.layers, tuple(args.precisions), tuple(args.best_of), tuple(args.prefill),
        args.rounds, args.budget_s,
    )  # fmt: skip


def _needed_bytes(args: argparse.Namespace) -> int:
    """Weights, one bundle of them and, where engines can be built, one engine, each of two bytes a parameter."""
    spec = _options(args, Path()).spec
    parameters = sum(plan.elements for plan in tensor_plans(spec, spec.vocab_size or 1000))
    builds = any(is_installed(library) for library in LIBRARIES)
    return (3 if builds else 2) * 2 * parameters + 10**9


if __name__ == "__main__":
    sys.exit(main())
