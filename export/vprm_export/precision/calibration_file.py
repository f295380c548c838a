"""`calibration.safetensors`: what the inputs of each Linear of an LLM look like, and how sensitive each one is.

| tensor                    | type, shape     | meaning                                                        |
|---------------------------|-----------------|----------------------------------------------------------------|
| `{linear}.absmax`         | float32 [in]    | largest absolute value of each input channel                   |
| `{linear}.mean_square`    | float32 [in]    | mean square of each input channel                              |
| `{linear}.token_absmax`   | float32 [5]     | percentiles 0, 50, 99, 99.9, 100 of the tokens' absmax         |
| `{linear}.samples`        | float32 [R, in] | some tokens' inputs: those with the largest absmax, and others |
| `{linear}.gram`           | float32         | second moments of channels, mean over tokens of the inputs     |
|                           | [in/b, b, b]    | scaled to a mean square of 1, in blocks of b <= 512 channels   |
| `sensitivity.{precision}` | float32 [names] | mean step-score error with this Linear alone quantised         |

`linear` names a Linear, or several with the same input: `layers.{i}.qkv`, `.o`, `.gate_up`, `.down`. The metadata has
one key, `vprm-calibration`: JSON with `sites` (their names, in order) and `provenance`. One key, because the library
writes several in any order, and the same content is to give the same bytes. For 8 B parameters the file has
2.1 GB, most of it second moments; a tensor is read when it is needed.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vprm_export.checkpoint import TensorEntry, read_safetensors_header
from vprm_export.precision.recipe import GROUP_SIZE
from vprm_runtime.errors import CheckpointError, InputError

FORMAT = "vprm-calibration"
FORMAT_VERSION = 3
_HESSIAN_BLOCK = 512
TOKEN_PERCENTILES = (0.0, 50.0, 99.0, 99.9, 100.0)

FloatArray = NDArray[np.float32]


def calibration_metadata(linears: Sequence[str], provenance: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file with these Linears; `provenance` gets the format's version."""
    document = {"sites": list(linears), "provenance": {**provenance, "format_version": FORMAT_VERSION}}
    return {FORMAT: json.dumps(document, sort_keys=True)}


def hessian_block(inputs: int) -> int:
    """Channels of a block of second moments: the most that divide `inputs` and hold whole groups of weights."""
    step = math.gcd(inputs, GROUP_SIZE)
    return max(block for block in range(step, _HESSIAN_BLOCK + 1, step) if inputs % block == 0)


@dataclass(frozen=True)
class LinearStatistics:
    """The inputs of one Linear, or of several with the same input, as in the table above."""

    absmax: FloatArray
    mean_square: FloatArray
    token_absmax: FloatArray
    samples: FloatArray
    hessian: FloatArray  # stored as `gram`

    def tensors(self, linear: str) -> dict[str, FloatArray]:
        """As tensors of the file."""
        return {_tensor_name(linear, field): value for field, value in vars(self).items()}

    @classmethod
    def read(cls, linear: str, tensor: Callable[[str], FloatArray]) -> "LinearStatistics":
        """One Linear's; `tensor` reads a tensor of the file by name."""
        return cls(**{field: tensor(_tensor_name(linear, field)) for field in cls.__dataclass_fields__})


def _tensor_name(linear: str, field: str) -> str:
    return f"{linear}.{'gram' if field == 'hessian' else field}"


@dataclass(frozen=True)
class Calibration:
    """An opened calibration file; tensors are read when they are asked for."""

    path: Path
    linears: tuple[str, ...]
    provenance: Mapping[str, Any]
    sha256: str
    tensors: Mapping[str, TensorEntry]

    @staticmethod
    def open(path: str | Path) -> "Calibration":
        """Open a file. Raises InputError if it is missing or not a calibration file."""
        file = Path(path)
        if not file.is_file():
            raise InputError(f"no calibration file at {file}: make one with  vprm calibrate BUNDLE -o {file}")
        try:
            tensors = read_safetensors_header(file)
        except CheckpointError as error:
            raise InputError(f"{file} is not a calibration file ({error}): make it with  vprm calibrate") from error
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        metadata = header.get("__metadata__", {})
        if FORMAT not in metadata and metadata.get("format") != FORMAT:
            raise InputError(f"{file} is a safetensors file of another kind: make one with  vprm calibrate BUNDLE")
        document = json.loads(metadata.get(FORMAT, "{}"))
        provenance = document.get("provenance", {})
        if provenance.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{file} has calibration format {provenance.get('format_version', 'of an older version')}, this "
                f"version reads {FORMAT_VERSION}: calibrate again with  vprm calibrate"
            )
        return Calibration(file, tuple(document["sites"]), provenance, digest, tensors)

    def check_model(self, inputs: Mapping[str, int]) -> None:
        """Raise InputError unless the file is of a model whose Linears have these numbers of input channels."""
        found = {linear: self.tensors[f"{linear}.absmax"].shape for linear in self.linears}
        expected = {linear: (width,) for linear, width in inputs.items()}
        if found != expected:
            different = next(name for name in (*expected, *found) if found.get(name) != expected.get(name))
            raise InputError(
                f"{self.path} was made for another model: the inputs of {different} have shape "
                f"{list(found.get(different, ()))}, not {list(expected.get(different, ()))}; calibrate this one"
            )

    def statistics(self, linear: str) -> LinearStatistics:
        """Statistics of one Linear. Raises InputError if the file has none: it is of another model."""
        return LinearStatistics.read(linear, self._read)

    def sensitivity(self, precision: str) -> dict[str, float]:
        """Step-score error by Linear. Raises InputError if it was not measured for this precision."""
        name = f"sensitivity.{precision}"
        if name not in self.tensors:
            raise InputError(
                f"{self.path} has no sensitivities for {precision}: measure them with  "
                f"vprm calibrate ... --sensitivity {precision}"
            )
        return dict(zip(self.linears, self._read(name).tolist(), strict=True))

    def most_sensitive(self, precision: str, count: int) -> tuple[str, ...]:
        """The `count` Linears with the largest step-score error, worst first."""
        errors = self.sensitivity(precision)
        if count > len(errors):
            raise InputError(f"--keep-high {count} is more than the model's {len(errors)} Linears: use fp16 instead")
        return tuple(sorted(errors, key=lambda name: -errors[name])[:count])

    def _read(self, name: str) -> FloatArray:
        entry = self.tensors.get(name)
        if entry is None:
            raise InputError(f"{self.path} has no tensor {name!r}: it was made for another model; calibrate this one")
        return np.array(entry.read(), np.float32)
