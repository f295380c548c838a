"""`vprm bench gpu --json --out DIR`: parity, speed and memory of every engine found here."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from vprm_benchmarks.gpu.chart import draw
from vprm_benchmarks.gpu.environment import check_device_memory, roomy_folder
from vprm_benchmarks.gpu.suite import Suite, SuiteOptions
from vprm_benchmarks.random_checkpoint import checkpoint_bytes
from vprm_runtime.cli.common import activity
from vprm_runtime.engines.cuda.device import is_device_present
from vprm_runtime.engines.cuda.tensorrt.engine_file import LIBRARIES
from vprm_runtime.engines.cuda.tensorrt.graph import is_installed
from vprm_runtime.errors import EngineError
from vprm_runtime.files import write_whole
from vprm_runtime.room import check_room


def run(args: argparse.Namespace) -> int:
    """Run the suite; with --json the document is the last line on stdout."""
    if args.model == "8b" and not is_device_present():
        raise EngineError("there is no CUDA device, which the full model needs: use --model 8b-slice or tiny")
    weights, needed = _needed_bytes(args)
    if is_device_present():
        check_device_memory(weights)
    else:
        check_room(f"--model {args.model}", memory_bytes=weights)
    if args.work is not None:
        check_room(f"--model {args.model}", disk_bytes=needed, folder=args.work)
    place = None if args.work is not None else roomy_folder(needed)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.work is not None:
        args.work.mkdir(parents=True, exist_ok=True)
        report = _run(args, args.work)
    else:
        with tempfile.TemporaryDirectory(dir=place, prefix="vprm-gpu-") as work:
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
        write_whole(args.out / "gpu.json", f"{json.dumps(report, indent=2)}\n".encode())

    with activity("gpu") as show:

        def say(text: str) -> None:
            show(text.split(maxsplit=2)[-1])
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress

        return Suite(_options(args, work), say, save).run()


def _options(args: argparse.Namespace, work: Path) -> SuiteOptions:
    return SuiteOptions(
        work, args.model, args.layers, tuple(args.precisions), tuple(args.best_of), tuple(args.prefill),
        args.rounds, args.budget_s,
    )  # fmt: skip


def _needed_bytes(args: argparse.Namespace) -> tuple[int, int]:
    """Bytes of the weights; and of those with one bundle and, if they can be built, one engine."""
    weights = checkpoint_bytes(_options(args, Path()).spec)
    builds = any(is_installed(library) for library in LIBRARIES)
    return weights, (3 if builds else 2) * weights + 10**9
