"""Benchmarks with a document or table of their own: their options. What they do is imported when they run."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vprm_benchmarks.speed.cli import add_number
from vprm_runtime.cli.arguments import add_device, add_json, add_threads
from vprm_runtime.cli.common import Subparsers, positive_int


@dataclass(frozen=True)
class Program:
    """A benchmark: `run(args) -> exit code` of `module`, with the options that `add_arguments` adds."""

    module: str
    help_text: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]

    def run(self, args: argparse.Namespace) -> int:
        """Run it; returns the exit code."""
        code: int = importlib.import_module(self.module).run(args)
        return code


def register(benchmarks: Subparsers) -> None:
    """Add a parser for each."""
    for name, program in PROGRAMS.items():
        parser = benchmarks.add_parser(name, help=program.help_text, description=program.description)
        program.add_arguments(parser)
        parser.set_defaults(run=program.run)


def _gpu(parser: argparse.ArgumentParser) -> None:
    models = ("tiny", "8b-slice", "8b")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for gpu.json and gpu.png")
    parser.add_argument("--json", action="store_true", help="print the JSON document as the last line on stdout")
    parser.add_argument("--model", choices=models, default="8b", help="size of the random model (default: 8b)")
    add_number(parser, "--layers", 8, "LLM layers of 8b-slice")
    precisions = ["fp16", "int8", "fp8"]
    parser.add_argument("--precisions", nargs="+", default=precisions, metavar="P", help="on a GPU, in this order")
    parser.add_argument("--best-of", type=positive_int, nargs="+", default=[8, 32], metavar="N", help="candidates")
    parser.add_argument(
        "--prefill", type=positive_int, nargs="+", default=[2048, 4096], metavar="TOKENS", help="tokens of a prefix"
    )
    add_number(parser, "--rounds", 3, "measured rounds")
    parser.add_argument("--budget-s", type=float, default=450.0, metavar="S", help="begin nothing new after S seconds")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for weights and bundles, kept (default: temporary)")


def _bundles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="bundle directories")
    add_number(parser, "--responses", 8, "of the request")
    add_device(parser)
    add_threads(parser)
    add_json(parser)


def _builds(parser: argparse.ArgumentParser) -> None:
    precisions = ("fp16", "int8", "w8", "w4", "fp8")
    parser.add_argument("--model", choices=("demo", "8b-slice", "8b"), default="demo", help="(default: demo)")
    add_number(parser, "--layers", 2, "LLM layers of 8b-slice")
    add_number(parser, "--vision-layers", 1, "vision layers of 8b-slice")
    parser.add_argument("--sm", type=positive_int, nargs="+", default=[89], metavar="NN", help="(default: 89)")
    parser.add_argument("--precision", nargs="+", choices=precisions, default=list(precisions), metavar="P")
    parser.add_argument("--profile", default="latency", metavar="P", help="as for vprm build (default: latency)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for weights and bundles (default: temporary)")
    add_json(parser)


def _table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the demo PRM's")
    add_number(parser, "--rows", 1000, "held-out rows")
    parser.add_argument("--best-of-n", type=int, default=200, metavar="N", help="best-of-8 rows (default: 200)")
    add_number(parser, "--calibration-rows", 32, "rows to calibrate on")
    parser.add_argument("--plant", action="store_true", help="plant outlier channels first")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows of the table (default: all)")
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print every report as one JSON document instead")


def _shapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for bundles and calibrations; kept")
    add_number(parser, "--full-layers", 32, "LLM layers of the whole model")
    add_number(parser, "--rows", 4, "rows to calibrate on, and as many to measure on")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON document instead")


def _demo_quality(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", type=Path, help="default: the demo PRM at fp32")
    add_number(parser, "--rows", 1000, "held-out rows")
    add_number(parser, "--questions", 200, "best-of-8 questions")
    add_number(parser, "--variants", 100, "variants of the model card's example")
    add_json(parser)


def _random_checkpoint(parser: argparse.ArgumentParser) -> None:
    families = ("internlm2", "llama", "qwen2")
    parser.add_argument("directory", type=Path, help="directory to create")
    parser.add_argument("--preset", choices=("tiny", "8b-slice", "visualprm-8b"), default="tiny", help="default: tiny")
    parser.add_argument("--family", choices=families, default="internlm2", help="LLM family of tiny")
    add_number(parser, "--layers", 4, "LLM layers of 8b-slice")
    add_number(parser, "--vision-layers", 4, "vision layers of 8b-slice")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="tokenizer files to copy (default: train one)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the weights (default: 0)")


PROGRAMS = {
    "bundles": Program(
        "vprm_benchmarks.speed.bundle_times",
        "seconds of one request on each of your bundles",
        "One synthetic request (7 tiles, 8 steps of 40 tokens per response), on all bundles in turns, as  vprm optimize"
        "  times them: image and question, the whole request, and one more step. All are open at the same time.",
        _bundles,
    ),
    "gpu": Program(
        "vprm_benchmarks.gpu.command",
        "parity, speed and memory of every engine on a GPU",
        "Random weights at VisualPRM-8B's shapes through every engine that is installed, in turns with PyTorch. "
        "DIR/gpu.json and DIR/gpu.png grow with every stage; nothing is downloaded.",
        _gpu,
    ),
    "builds": Program(
        "vprm_benchmarks.speed.builds",
        "what TensorRT-RTX builds cost: time, memory, sizes",
        "Export a model at each precision and build its engines for each compute capability with TensorRT-RTX, which "
        "needs no device. Exit code 1 if a build has problems.",
        _builds,
    ),
    "table": Program(
        "vprm_benchmarks.quality.table",
        "every recipe of a checkpoint against its fp32 bundle, and other quantisers",
        "Calibrate on the demo's calibration rows, score its held-out rows, and print a table in Markdown. Exit code 1 "
        "if a calibrated recipe is over its budget.",
        _table,
    ),
    "shapes": Program(
        "vprm_benchmarks.quality.shapes",
        "error of each Linear, sizes, export time and memory at a checkpoint's shapes",
        "For checkpoints whose scores mean nothing, as those of  vprm bench random-checkpoint .",
        _shapes,
    ),
    "demo-quality": Program(
        "vprm_benchmarks.evaluation.demo_quality",
        "the demo PRM's figures, with images and without",
        "Score held-out rows as they are and with every image replaced by grey, best-of-8 questions, and variants of "
        "the model card's example.",
        _demo_quality,
    ),
    "random-checkpoint": Program(
        "vprm_benchmarks.random_checkpoint.command",
        "write a checkpoint of random weights in the hub's layout",
        "Same files, names and configuration keys as a real checkpoint; at test width, or at VisualPRM-8B's shapes.",
        _random_checkpoint,
    ),
}
