"""`vprm score` over shards: by several processes of this machine, or on Ray."""

import argparse
import json
import math
import os
import shutil
import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.cli.common import RowBar, opened_bundle, positive_int
from vprm_runtime.cli.shard import say_merged
from vprm_runtime.errors import EngineError, InputError, MissingExtraError
from vprm_runtime.options import ScoreOptions

_SHARDS_PER_WORKER = 16  # so that at the end no worker waits for long
_SHARD_BYTES = 256 << 20
MERGED_NAME = "scores.jsonl"


@dataclass(frozen=True)
class _Paths:
    """Where a run keeps things: the shards (None: the input is cut first), their scores, the merged file."""

    shards: Path
    scores: Path
    merged: Path
    work: Path | None  # removed at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for several workers."""
    group = parser.add_argument_group("several workers (rows are cut into shards, scores merged in input order)")
    group.add_argument("--processes", type=positive_int, metavar="N", help="score with N processes on this machine")
    group.add_argument(
        "--ray", metavar="ADDRESS", help="score with Ray actors: a cluster's address, auto, or local (needs vprm[ray])"
    )
    group.add_argument("--workers", type=positive_int, metavar="N", help="Ray actors (default: as many as fit)")
    group.add_argument(
        "--worker-cpus", type=positive_int, metavar="C", help="CPUs and threads of an actor (default: 1)"
    )
    group.add_argument("--worker-gpus", type=float, metavar="G", help="GPUs of a Ray actor; may be a part of one")


def is_asked_for(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for shards."""
    is_directory = args.input is not None and args.input.is_dir()
    return args.processes is not None or args.ray is not None or is_directory


def run(args: argparse.Namespace, options: ScoreOptions) -> int:
    """Cut if need be, score all shards, merge. Returns the exit code."""
    from vprm_runtime.datasets.line_log import check_output
    from vprm_runtime.datasets.shard_merge import merge_scores, scored_rows
    from vprm_runtime.datasets.shard_runner import run_shards
    from vprm_runtime.datasets.source import first_bytes

    _check(args)
    if not args.input.is_dir():
        first_bytes(args.input)
    if not args.output.is_dir():
        check_output(args.output)
    began = time.monotonic()
    bundle, paths = opened_bundle(args.bundle, args.verify).path.absolute(), _paths(args.input, args.output)
    if paths.merged.exists():
        _check_same_run(paths.merged, args.input, bundle, options)
        if paths.work is not None and not paths.work.exists():
            return say_merged(args, scored_rows(paths.merged), seconds=time.monotonic() - began)
    shards = _shards(args, paths)
    with redirect_stdout(sys.stderr):  # Ray prints there; on stdout there is one document or nothing
        pool = _pool(args, bundle)
        try:
            with RowBar(f"scoring, {pool.workers} workers") as bar:
                left = run_shards(
                    shards, paths.scores, pool, image_root=args.image_root, options=options,
                    keep_errors=args.keep_errors, progress=bar.advance,
                )  # fmt: skip
        finally:
            pool.close()
    if left:
        names = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:5])
        raise EngineError(
            f"{len(left)} of {len(shards.shards)} shards kill every process that takes them ({names}): "
            f"mend the cause and run again, it goes on from {paths.scores}"
        )
    with RowBar("merging"):
        found = merge_scores(shards, paths.scores, paths.merged)
    if paths.work is not None:
        shutil.rmtree(paths.work, ignore_errors=True)
    seconds = time.monotonic() - began
    return say_merged(args, found, workers=pool.workers, shards=len(shards.shards), seconds=seconds)


def _check(args: argparse.Namespace) -> None:
    if args.input is None or args.output is None or str(args.input) == "-" or str(args.output) == "-":
        raise InputError("several workers need --input (a file of rows or a directory of shards) and --output")
    if args.strict:
        raise InputError("--strict is for one process: several have scored other rows when the first error is seen")
    if args.processes is not None and args.ray is not None:
        raise InputError("--processes is for this machine, --ray for a cluster: give one of them")
    if args.ray is None and (args.workers is not None or args.worker_gpus is not None or args.worker_cpus is not None):
        raise InputError("--workers, --worker-cpus and --worker-gpus are for --ray: give --processes and --threads")
    if args.ray is not None and args.threads is not None:
        raise InputError("a Ray actor has as many threads as CPUs: give --worker-cpus instead of --threads")


def _paths(source: Path, output: Path) -> _Paths:
    is_directory = output.is_dir() or str(output).endswith(os.sep) or (source.is_dir() and not output.suffix)
    if is_directory:
        return _Paths(source if source.is_dir() else output / "shards", output, output / MERGED_NAME, None)
    work = output.with_name(output.name + ".shards")
    return _Paths(source if source.is_dir() else work / "rows", work / "scores", output, work)


def _shards(args: argparse.Namespace, paths: _Paths) -> Any:
    """The shards: those of the input, those that an earlier run cut, or cut now."""
    from vprm_runtime.datasets.shards import ShardSet, fingerprint_of, write_shards

    if args.input.is_dir():
        return ShardSet.open(args.input)
    if paths.shards.exists():
        shards = ShardSet.open(paths.shards)
        root = os.path.abspath(args.input.parent if args.image_root is None else args.image_root)
        if shards.fingerprint != fingerprint_of(args.input) or shards.inputs[0].image_root != root:
            raise InputError(
                f"{paths.shards.parent} was begun with another input or image root: choose another output, or remove it"
            )
        return shards
    workers = args.processes or args.workers or os.cpu_count() or 1
    count = max(_SHARDS_PER_WORKER * workers, math.ceil(args.input.stat().st_size / _SHARD_BYTES))
    with RowBar("cutting") as bar:
        return write_shards([args.input], paths.shards, count, args.image_root, bar.advance)


def _check_same_run(merged: Path, source: Path, bundle: Path, options: ScoreOptions) -> None:
    """Raise InputError unless `merged` is what this run would write."""
    from vprm_runtime.datasets.score_log import run_path
    from vprm_runtime.datasets.shards import ShardSet, fingerprint_of

    wanted = {
        "input": ShardSet.open(source).fingerprint if source.is_dir() else fingerprint_of(source),
        "bundle": Bundle.open(bundle).manifest.fingerprint,
        "options": asdict(options),
    }
    try:
        run = json.loads(run_path(merged).read_text("utf-8"))
        changed = [key for key, value in wanted.items() if run.get(key) != value]
    except (OSError, ValueError, AttributeError):
        changed = ["settings"]
    if changed:
        raise InputError(
            f"{merged} exists already, from different {', '.join(changed)}: choose another output, or remove it"
        )


def _pool(args: argparse.Namespace, bundle: Path) -> Any:
    from vprm_runtime.datasets.local_workers import LocalWorkers
    from vprm_runtime.datasets.shard_runner import ScorerSettings

    if args.ray is None:
        workers = args.processes or 1
        threads = args.threads or max(1, (os.cpu_count() or 1) // workers)
        return LocalWorkers(ScorerSettings(str(bundle), args.device, threads), workers)
    cpus = args.worker_cpus or 1
    settings = ScorerSettings(str(bundle), args.device, cpus)
    for hook in entry_points(group="vprm.workers", name="ray"):
        try:
            connected = hook.load()
        except ModuleNotFoundError as error:
            raise MissingExtraError("--ray", "ray") from error
        return connected(args.ray, settings, args.workers, cpus, args.worker_gpus or 0.0)
    raise InputError("Ray workers are not installed: install vprm again with its extra ray")
