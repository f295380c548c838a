"""The native library as tests build and call it."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from vprm_runtime.native import Level

SOURCE = Path(__file__).parents[2] / "runtime" / "native"
LIBRARY = SOURCE.parent / "vprm_runtime" / "native" / "libvprm_native.so"
Rows = NDArray[np.float32]
Compiled = tuple[Path, Level]  # a library and one of its levels
LibraryAt = Callable[[str], Compiled]  # see the fixture `library_at`
_POINTERS = ("query", "past_key", "past_value", "key", "value", "mask", "result")
_NUMBERS = ("queries", "past", "new_keys", "heads", "kv_heads", "head_dim")


def build_hook() -> ModuleType:
    """runtime/build_native.py, which is no package's module."""
    spec = importlib.util.spec_from_file_location("build_native", SOURCE.parent / "build_native.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _AttentionArguments(ctypes.Structure):
    """VprmAttention of attention.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in _POINTERS] + [(name, ctypes.c_int64) for name in _NUMBERS]


@dataclass(frozen=True)
class AttentionCase:
    """Inputs of one call; rows are [tokens, heads*head_dim]."""

    query: Rows
    past_key: Rows
    past_value: Rows
    key: Rows
    value: Rows
    mask: NDArray[np.bool_] | None
    heads: int
    kv_heads: int


def attention(library: Path, level: int, case: AttentionCase) -> Rows:
    """vprm_attention_call of a library at one level; [queries, heads*head_dim]."""
    result = np.full_like(case.query, 7)
    arguments = _AttentionArguments()
    for name in _POINTERS:
        array = result if name == "result" else getattr(case, name)
        setattr(arguments, name, None if array is None or array.size == 0 else array.ctypes.data)
    numbers = (
        len(case.query), len(case.past_key), len(case.key),
        case.heads, case.kv_heads, case.query.shape[1] // case.heads,
    )  # fmt: skip
    for name, number in zip(_NUMBERS, numbers, strict=True):
        setattr(arguments, name, number)
    assert ctypes.CDLL(str(library)).vprm_attention_call(ctypes.byref(arguments), level) == 0
    return result


class _LinearArguments(ctypes.Structure):
    """VprmLinear of linear.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("input", "weight", "scale", "bias", "residual", "result")),
        *((name, ctypes.c_int64) for name in ("rows", "inputs", "outputs", "group")),
        ("bits", ctypes.c_int32), ("activation", ctypes.c_int32),
    ]  # fmt: skip


@dataclass(frozen=True)
class LinearCase:
    """One call of a Linear: arrays in the kernel's layout, `outputs` of the result; group 0: all inputs.

    `scale` None: with 16 bits.
    """

    input: Rows
    weight: NDArray[np.uint8]
    scale: Rows | None
    outputs: int
    bits: int = 8
    group: int = 0
    activation: int = 0
    bias: Rows | None = None
    residual: Rows | None = None


def linear(library: Path, level: int, case: LinearCase) -> Rows:
    """vprm_linear_call of a library at one level; [rows, outputs]. Raises ValueError with its complaint."""
    rows, inputs = case.input.shape
    result = np.full((rows, case.outputs), 7, np.float32)
    arguments = _LinearArguments(
        rows=rows, inputs=inputs, outputs=case.outputs, group=case.group, bits=case.bits, activation=case.activation
    )
    for name in ("input", "weight", "scale", "bias", "residual"):
        array = getattr(case, name)
        setattr(arguments, name, None if array is None else array.ctypes.data)
    arguments.result = result.ctypes.data
    function = ctypes.CDLL(str(library)).vprm_linear_call
    function.restype = ctypes.c_char_p
    problem: bytes | None = function(ctypes.byref(arguments), level)
    if problem is not None:
        raise ValueError(problem.decode())
    return result


def crash() -> None:
    """Read address 0."""
    ctypes.string_at(0)
