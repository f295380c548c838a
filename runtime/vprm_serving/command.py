"""`vprm serve`: the command line of the server."""

import argparse
import math
import os
from dataclasses import replace
from pathlib import Path

from vprm_runtime.cli.arguments import add_bundle
from vprm_runtime.cli.common import Subparsers, positive_int, resolve_bundle
from vprm_runtime.errors import InputError, MissingExtraError
from vprm_serving.settings import Limits, Settings, read_api_keys


def register(subparsers: Subparsers) -> None:
    """Add the `serve` parser."""
    parser = subparsers.add_parser(
        "serve",
        help="serve scores over HTTP",
        description="Serve step scores over HTTP, with a page at /. SIGTERM drains, a second one aborts.",
    )
    add_bundle(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port (default: 8000)")
    parser.add_argument("--uds", type=Path, metavar="PATH", help="listen on a Unix socket instead")
    parser.add_argument(
        "--device", action="append", metavar="D", help="auto, cpu, openvino, cuda, ...; repeat for several engines"
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads of an engine (default: cores)")
    parser.add_argument(
        "--max-block-tokens", type=positive_int, metavar="N",
        help="tokens of one engine call (default: 128 on a CPU, else the engine's)",
    )  # fmt: skip
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="the only folder that image paths may lead to")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="keys, one a line, of which one is needed")
    parser.add_argument(
        "--cache-bytes", type=_size, default=1 << 30, metavar="N",
        help="memory for prefixes, sessions and uploads, e.g. 8G (default: 1G)",
    )  # fmt: skip
    parser.add_argument(
        "--max-queue-tokens", type=positive_int, default=131_072, metavar="N",
        help="tokens that may wait; beyond, requests are refused with 429 (default: 131072)",
    )  # fmt: skip
    parser.add_argument("--drain-s", type=float, default=30.0, metavar="S", help="time to finish in (default: 30)")
    parser.add_argument(
        "--stall-s", type=float, default=10.0, metavar="S",
        help="unhealthy if one block takes longer, and three times the usual (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=positive_int, default=1, metavar="N",
        help="processes, each with an engine of its own, prefixes divided among them (default: 1)",
    )  # fmt: skip
    parser.add_argument("--session-prefix", default="", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    group = parser.add_argument_group("on a Ray cluster (extra ray)")
    group.add_argument(
        "--ray", nargs="?", const="auto", metavar="ADDRESS",
        help="serve with replicas on a cluster: its address, auto (default), or local for one of this machine",
    )  # fmt: skip
    group.add_argument("--replicas", type=_range, default=(1, 1), metavar="N|MIN:MAX", help="how many (default: 1)")
    group.add_argument("--replica-cpus", type=positive_int, default=1, metavar="C", help="CPUs, and threads, of each")
    group.add_argument(
        "--replica-gpus", type=float, default=0.0, metavar="G", help="GPUs of each; may be a part of one"
    )
    group.add_argument(
        "--target-ongoing", type=float, default=8.0, metavar="R", help="requests a replica before another is added"
    )
    parser.set_defaults(run=run, extra="cpu,serve")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal. Returns the exit code."""
    from vprm_serving.logs import log_to_stderr
    from vprm_serving.server import serve, serve_with_workers

    settings = settings_of(args)
    log_to_stderr()
    if args.ray is not None:
        return _run_on_ray(args, settings)
    if settings.workers > 1:
        return serve_with_workers(settings, worker_arguments(settings))
    return serve(settings, args.session_prefix, args.parent)


def worker_arguments(settings: Settings) -> list[str]:
    """What each worker is started with: its share of cores, cache and queue."""
    count = settings.workers
    threads = settings.threads or max(1, (os.cpu_count() or 1) // count)
    given = {
        "--threads": threads,
        "--cache-bytes": settings.cache_bytes // count,
        "--max-queue-tokens": max(1, settings.limits.max_queue_tokens // count),
        "--drain-s": settings.drain_s,
        "--stall-s": settings.stall_s,
        "--image-root": settings.image_root,
        "--api-key-file": settings.api_key_file,
        "--max-block-tokens": settings.max_block_tokens,
    }
    words = [str(settings.bundle)]
    for device in settings.devices:
        words += ["--device", device]
    for name, value in given.items():
        words += [] if value is None else [name, str(value)]
    return words


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the arguments name. Raises InputError for what cannot work."""
    if args.image_root is not None and not args.image_root.is_dir():
        raise InputError(f"the image root {args.image_root} is not a directory: give the one that holds the images")
    if not (0 <= args.drain_s < math.inf and 0 < args.stall_s < math.inf):
        raise InputError("--drain-s is a number of seconds that is not negative, --stall-s one that is positive")
    if not 0 < args.port < 1 << 16:
        raise InputError(f"--port is a number from 1 to 65535, got {args.port}")
    read_api_keys(args.api_key_file)  # before the bundle is opened, which may take minutes
    return Settings(
        bundle=resolve_bundle(args.bundle),
        host=args.host,
        port=args.port,
        uds=args.uds,
        devices=tuple(args.device or ["auto"]),
        threads=args.threads,
        max_block_tokens=args.max_block_tokens,
        image_root=args.image_root,
        api_key_file=args.api_key_file,
        cache_bytes=args.cache_bytes,
        drain_s=args.drain_s,
        workers=args.workers,
        stall_s=args.stall_s,
        limits=Limits(max_queue_tokens=args.max_queue_tokens),
    )


def _run_on_ray(args: argparse.Namespace, settings: Settings) -> int:
    try:
        from vprm_serving.ray_serve import RayOptions, serve_on_ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("--ray", "ray,serve,client") from error
    if settings.uds is not None or settings.workers > 1:
        raise InputError("a Ray cluster listens on an address and has replicas: leave out --uds and --workers")
    least, most = args.replicas
    how = RayOptions(args.ray, least, most, args.target_ongoing, args.replica_cpus, args.replica_gpus)
    root, keys = settings.image_root, settings.api_key_file
    found = replace(
        settings,
        bundle=settings.bundle.absolute(),
        image_root=None if root is None else root.absolute(),
        api_key_file=None if keys is None else keys.absolute(),
    )
    return serve_on_ray(found, how)


def _range(text: str) -> tuple[int, int]:
    """An argparse type: N, or MIN:MAX."""
    least, _, most = text.partition(":")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of replicas nor MIN:MAX")
    return found


def _size(text: str) -> int:
    """An argparse type: bytes, with K, M, G or T for powers of 1024."""
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    digits, shift = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 0)
    if not digits.isascii() or not digits.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 1073741824, 512M or 8G")
    return int(digits) << shift
