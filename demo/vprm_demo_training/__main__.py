"""`python -m vprm_demo_training`: train the demo PRM, evaluate it, write the checkpoint. See docs/demo-prm.md."""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from vprm_demo import best_of_n_rows, checkpoint_dir, example_variant_rows, held_out_rows

from .evaluate import Judge, choice_quality, steps_quality
from .export import save_checkpoint
from .model import DemoPrm, ModelConfig
from .prompt import Tokenizer
from .stages import STAGES, Run
from .tokenizer import train_sentencepiece, write_tokenizer


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: large tensors come and go every step, and faulting their pages in costs a
    third of it."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 512 << 20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(option, value)


def report(judge: Judge, n: int) -> dict[str, float]:
    """All measures of docs/demo-prm.md on `n` held-out rows."""
    rows = held_out_rows(n)
    result = steps_quality(judge, rows)
    grey = steps_quality(judge, rows, grey=True)
    result["grey_f1"] = grey["f1"]
    choices = choice_quality(judge, best_of_n_rows(max(20, n // 5)))
    result["best_of_8"], result["random_of_8"] = choices["accuracy"], choices["random"]
    result["example_variants"] = choice_quality(judge, example_variant_rows(100))["accuracy"]
    return result


def main() -> None:
    """Train, or take up a run; then evaluate and write the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m vprm_demo_training", description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="folder of the run: state and log (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=checkpoint_dir(), help="checkpoint folder to write (default: the package's)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the length of every stage, e.g. 0.01 for a trial"
    )
    parser.add_argument(
        "--rows", type=int, default=1000, help="held-out rows to evaluate on at the end (default: %(default)s)"
    )
    parser.add_argument(
        "--evaluate-only", action="store_true", help="evaluate the run as it stands; trains and writes nothing"
    )
    arguments = parser.parse_args()

    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    if not (arguments.output / "tokenizer.model").exists():
        write_tokenizer(arguments.output, train_sentencepiece())
    tokenizer = Tokenizer(arguments.output)
    model = DemoPrm(ModelConfig(tokenizer.vocab_size))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        run = Run(arguments.run, tokenizer, model, device, executor)
        if not arguments.evaluate_only:
            run.train(
                tuple(
                    replace(s, rows=int(s.rows * arguments.scale), minutes=s.minutes * arguments.scale) for s in STAGES
                )
            )
            save_checkpoint(run.model, arguments.output)
    for name, value in report(Judge(run.model, tokenizer, device), arguments.rows).items():
        run.log(f"held-out {name} {value:.4f}")


if __name__ == "__main__":
    main()
