"""Checkpoints of random weights in the layout of the hub's visual PRMs.

They stand in for real weights in tests (small widths) and in speed measurements (the real layer shapes of
VisualPRM-8B): same files, names and configuration keys, so what reads one reads the other. Weights are scaled so that
step scores spread over 0.1 to 0.9 and depend on image, question and step; a mistake anywhere in the path then shows
in the score.
"""

from vprm_benchmarks.random_checkpoint.spec import (
    CheckpointSpec,
    LlmFamily,
    LlmSpec,
    VisionSpec,
    tiny_spec,
    visualprm_8b_spec,
)
from vprm_benchmarks.random_checkpoint.tensors import RandomTensor, random_tensors
from vprm_benchmarks.random_checkpoint.tokenizers import make_slow, write_tokenizer
from vprm_benchmarks.random_checkpoint.writer import checkpoint_bytes, write_random_checkpoint

__all__ = [
    "CheckpointSpec",
    "LlmFamily",
    "LlmSpec",
    "RandomTensor",
    "VisionSpec",
    "checkpoint_bytes",
    "make_slow",
    "random_tensors",
    "tiny_spec",
    "visualprm_8b_spec",
    "write_random_checkpoint",
    "write_tokenizer",
]
