"""The package's own operators for ONNX Runtime on x86-64 CPUs: Linears in int8, int4 and bfloat16, and
attention in bfloat16.

Graphs of target `cpu-native` have them in place of standard operators; `linear.h` and `attention.h` say what they
compute. The library is built with the package if there is a C compiler (`build_native.py`) and is the only compiled
part. It runs on every x86-64 CPU, fast from AVX-512 VNNI on; VPRM_NATIVE_LEVEL=plain|avx512|amx chooses a lower level
than the CPU's best.
"""

import ctypes
from enum import IntEnum
from pathlib import Path

from vprm_runtime.errors import EngineError

DOMAIN = "vprm"  # of the operators, named Attention and Linear
LAYOUT = 2  # of a Linear's weight: LAYOUT of ort_linear.c
PANEL_OUTPUTS = 32  # LINEAR_PANEL of linear.h
CHUNK_INPUTS = 64  # LINEAR_CHUNK of linear.h
_LIBRARY = Path(__file__).parent / "libvprm_native.so"


class Level(IntEnum):
    """What the operators use: `VprmLevel` of cpu.h. PLAIN is false: right everywhere, and slow."""

    PLAIN = 0
    AVX512 = 1
    AMX = 2


class Activation(IntEnum):
    """What a Linear applies to its sums: `VprmActivation` of linear.h."""

    IDENTITY = 0
    SILU_GATE = 1
    GELU = 2


def level() -> Level | None:
    """The level that the operators run at: the CPU's best or VPRM_NATIVE_LEVEL's; None if the library was not built.

    Raises EngineError if VPRM_NATIVE_LEVEL is no level, or one that the CPU does not have.
    """
    if not _LIBRARY.exists():
        return None
    library = ctypes.CDLL(str(_LIBRARY))
    library.vprm_choose_level.restype = ctypes.c_char_p
    chosen = ctypes.c_int()
    problem: bytes | None = library.vprm_choose_level(ctypes.byref(chosen))
    if problem is not None:
        best = Level(library.vprm_cpu_level()).name.lower()
        raise EngineError(f"{problem.decode()}; this CPU's best is {best}: change the variable or leave it out")
    return Level(chosen.value)


def has_bf16() -> bool:
    """Whether products of bfloat16 are fast at the level that the operators run at; see `level`."""
    chosen = level()
    if chosen is None:
        return False
    library = ctypes.CDLL(str(_LIBRARY))
    library.vprm_has_bf16.restype = ctypes.c_bool
    return bool(library.vprm_has_bf16(int(chosen)))


def description() -> str:
    """The level and what it means, for people; empty if the library was not built."""
    chosen = level()
    if chosen is None:
        return ""
    if chosen is Level.PLAIN:
        return "PLAIN (slow: the CPU has no AVX-512 VNNI, or VPRM_NATIVE_LEVEL says so)"
    return chosen.name if has_bf16() else f"{chosen.name} (without AVX-512 BF16: attention and bf16 in float32)"


def summary() -> str:
    """What bundles of target cpu-native need, and what they run at on this machine; for people."""
    try:
        here = description() or "not built on this machine: install the package where there is a C compiler"
    except EngineError as error:
        here = str(error)
    return f"for x86-64 CPUs, fast from AVX-512 VNNI on; here: {here}"


def library_path() -> Path:
    """The library. Raises EngineError if it was not built."""
    if not _LIBRARY.exists():
        raise EngineError(
            "this bundle was exported for --target cpu-native, and the package was installed without its native part: "
            "install it where there is a C compiler (gcc or clang, x86-64 Linux), or export with  --target cpu"
        )
    level()
    return _LIBRARY
