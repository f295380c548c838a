"""Command-line arguments that mean the same in every subcommand that has them."""

import argparse
from pathlib import Path

from vprm_runtime.cli.common import positive_int

_DEVICE_HELP = "auto, cpu, openvino, cuda, tensorrt or tensorrt-rtx; cuda:1 is the second GPU (default: auto)"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add BUNDLE: a bundle directory, or nothing for the demo PRM."""
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="bundle directory (default: demo PRM)")


def add_image_root(parser: argparse.ArgumentParser) -> None:
    """Add --image-root: the folder of the relative image paths in rows."""
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="where rows' relative image paths start")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device: which engine scores."""
    parser.add_argument("--device", default="auto", help=_DEVICE_HELP)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add --threads: CPU threads of the engine."""
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: all cores)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json: one document on stdout, everything else on stderr."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
