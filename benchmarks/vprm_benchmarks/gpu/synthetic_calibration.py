"""A calibration file for random weights: inputs of unit scale in every channel, nothing measured.

It gives quantised graphs their shape, for builds and speed. Their accuracy is to be judged with real weights and
`vprm calibrate` only.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from vprm_export.precision.calibration_file import TOKEN_PERCENTILES, calibration_metadata
from vprm_export.precision.linears import linear_names
from vprm_export.precision.recipe import GROUP_SIZE

_ABSMAX = 4.0  # of a few thousand normal values
_SAMPLES = 8


def write_synthetic_calibration(path: Path, checkpoint: Path) -> Path:
    """Write `path` for the LLM of a checkpoint directory and return it."""
    llm = json.loads((checkpoint / "config.json").read_text("utf-8"))["llm_config"]
    hidden, mlp = int(llm["hidden_size"]), int(llm["intermediate_size"])
    inputs = {"qkv": hidden, "o": hidden, "gate_up": hidden, "down": mlp}
    linears = linear_names(int(llm["num_hidden_layers"]))
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.float32]] = {}
    for linear in linears:
        width = inputs[linear.rsplit(".", 1)[1]]
        tensors[f"{linear}.absmax"] = np.full(width, _ABSMAX, np.float32)
        tensors[f"{linear}.mean_square"] = np.ones(width, np.float32)
        tensors[f"{linear}.token_absmax"] = np.full(len(TOKEN_PERCENTILES), _ABSMAX, np.float32)
        block = math.gcd(width, GROUP_SIZE)  # channels that have nothing to do with each other: the smallest blocks
        tensors[f"{linear}.gram"] = np.tile(np.eye(block, dtype=np.float32), (width // block, 1, 1))
        tensors[f"{linear}.samples"] = random.standard_normal((_SAMPLES, width)).astype(np.float32)
    save_file(tensors, path, calibration_metadata(linears, {"synthetic": True}))
    return path
