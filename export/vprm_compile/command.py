"""`vprm build`: a bundle's graphs become TensorRT engines in the bundle."""

import argparse
from dataclasses import asdict

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.cli.arguments import add_bundle, add_json
from vprm_runtime.cli.common import (
    Subparsers,
    byte_progress,
    phase_progress,
    positive_int,
    print_json,
    print_stderr,
    resolve_bundle,
)
from vprm_runtime.engines.cuda.tensorrt.describe import engine_lines
from vprm_runtime.engines.cuda.tensorrt.engine_file import LIBRARIES


def register(subparsers: Subparsers) -> None:
    """Add the `build` parser."""
    parser = subparsers.add_parser(
        "build",
        help="compile a bundle into TensorRT engines",
        description="Compile a bundle's graphs into TensorRT engines, inside the bundle. TensorRT-RTX needs no device.",
    )
    add_bundle(parser)
    parser.add_argument("--engine", choices=LIBRARIES, required=True, help="library to build with")
    parser.add_argument(
        "--sm", type=positive_int, nargs="+", metavar="NN",
        help="compute capabilities to build for, e.g. 80 86 89 120 (default: the device in this machine)",
    )  # fmt: skip
    parser.add_argument(
        "--profile", default="latency", metavar="P",
        help="latency, throughput, or NAME=MIN:OPT:MAX[,...] with names tiles, tokens, past, scores (default: latency)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", choices=("full", "stripped"), default="full",
        help="stripped: a small engine that takes the bundle's weights when it is opened; needs a device to build",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(run=run, extra="export,tensorrt-rtx")


def run(args: argparse.Namespace) -> int:
    """Build for each device. Exit code 1 if a compiled engine does not do what its precision promises."""
    from vprm_compile.build import build_engines
    from vprm_compile.capability import BuildOptions

    bundle = Bundle.open(resolve_bundle(args.bundle))
    with byte_progress("checking the bundle's files") as checked:
        bundle.verify(checked)  # weights are copied into an engine, whose own hashes say nothing about them
    built = []
    for sm in args.sm or [None]:
        with phase_progress("building") as progress:
            built.append(build_engines(bundle, BuildOptions(args.engine, sm, args.profile, args.weights), progress))
        if not args.json:
            for line in engine_lines(built[-1]):
                print_stderr(line)
    if args.json:
        print_json({"bundle": str(bundle.path), "engines": [asdict(info) for info in built]})
    return int(any(graph.check.problems for info in built for graph in (info.vision, info.llm)))
