"""The package's own operator for ONNX Runtime: attention in bfloat16 on x86 CPUs with AVX-512 BF16 or AMX BF16.

Graphs of target `cpu-native` have it in place of the standard operator; `attention.h` says what it computes. The
library is built with the package where there is a C compiler (`build_native.py`) and is the only compiled part.
"""

import ctypes
from enum import IntEnum
from pathlib import Path

from vprm_runtime.errors import EngineError

DOMAIN = "vprm"  # of the operator, named Attention
_LIBRARY = Path(__file__).parent / "libvprm_native.so"


class Level(IntEnum):
    """What the operator can use: `VprmLevel` of attention.h."""

    NONE = 0
    AVX512_BF16 = 1
    AMX_BF16 = 2


def level() -> Level:
    """The best level of this CPU; NONE where the library was not built."""
    return Level(ctypes.CDLL(str(_LIBRARY)).vprm_level()) if _LIBRARY.exists() else Level.NONE


def library_path() -> Path:
    """The library, which this CPU can run. Raises EngineError where it cannot, or where it was not built."""
    if not _LIBRARY.exists():
        raise EngineError(
            "this bundle was exported for --target cpu-native, and the package was installed without its native part: "
            "install it where there is a C compiler (gcc or clang, x86-64 Linux), or export with  --target cpu"
        )
    if level() is Level.NONE:
        raise EngineError(
            "this bundle was exported for --target cpu-native, which needs a CPU with AVX-512 BF16 or AMX BF16: "
            "export it with  --target cpu"
        )
    return _LIBRARY
