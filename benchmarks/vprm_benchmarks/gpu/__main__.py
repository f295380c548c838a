"""`python -m vprm_benchmarks.gpu`: `vprm bench gpu` from a folder of sources, where nothing is installed."""

from __future__ import annotations

import argparse
import sys

from vprm_benchmarks.speed.programs import PROGRAMS
from vprm_runtime.cli.signals import handled_signals


def main(arguments: list[str] | None = None) -> int:
    """Run it with command-line arguments; returns the exit code."""
    program = PROGRAMS["gpu"]
    parser = argparse.ArgumentParser(prog="python -m vprm_benchmarks.gpu", description=program.description)
    program.add_arguments(parser)
    with handled_signals():
        return program.run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
