"""`vprm bench random-checkpoint DIR --preset 8b-slice --layers 4`: write a random checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import replace

from vprm_benchmarks.random_checkpoint import tiny_spec, visualprm_8b_spec, write_random_checkpoint
from vprm_runtime.cli.common import byte_progress


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint, print where it is and how large."""
    if args.preset == "tiny":
        spec = tiny_spec(args.family)
    elif args.preset == "8b-slice":
        spec = visualprm_8b_spec(llm_layers=args.layers, vision_layers=args.vision_layers)
    else:
        spec = visualprm_8b_spec()
    with byte_progress("writing") as progress:
        chosen = replace(spec, tokenizer_dir=args.tokenizer, seed=args.seed)
        written = write_random_checkpoint(args.directory, chosen, progress)
    size_bytes = sum(file.stat().st_size for file in written.iterdir())
    print(f"{written}: {size_bytes / 1e6:,.1f} MB")  # noqa: T201 - the command's output
    return 0
