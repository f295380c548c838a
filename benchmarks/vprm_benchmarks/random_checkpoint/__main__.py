"""``python -m vprm_benchmarks.random_checkpoint DIR --preset 8b-slice --layers 4``: write a random checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

from vprm_benchmarks.random_checkpoint import LlmFamily, tiny_spec, visualprm_8b_spec, write_random_checkpoint


def main() -> None:
    """Parse the command line, write the checkpoint, print where it is and how large."""
    parser = argparse.ArgumentParser(description="Write a checkpoint of random weights in the hub's layout.")
    parser.add_argument("directory", type=Path, help="directory to create")
    parser.add_argument("--preset", choices=("tiny", "8b-slice", "visualprm-8b"), default="tiny")
    parser.add_argument("--family", choices=get_args(LlmFamily), default="internlm2", help="LLM family of 'tiny'")
    parser.add_argument("--layers", type=int, default=4, help="LLM layers of '8b-slice' (default 4)")
    parser.add_argument("--vision-layers", type=int, default=4, help="vision layers of '8b-slice' (default 4)")
    parser.add_argument("--tokenizer", type=Path, help="directory with tokenizer files to copy (default: train one)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.preset == "tiny":
        spec = tiny_spec(args.family)
    elif args.preset == "8b-slice":
        spec = visualprm_8b_spec(llm_layers=args.layers, vision_layers=args.vision_layers)
    else:
        spec = visualprm_8b_spec()
    written = write_random_checkpoint(args.directory, replace(spec, tokenizer_dir=args.tokenizer, seed=args.seed))
    size_bytes = sum(file.stat().st_size for file in written.iterdir())
    print(f"{written}: {size_bytes / 1e6:,.1f} MB")  # noqa: T201 - the command's output


if __name__ == "__main__":
    main()
