"""libtiff, which Pillow decodes compressed TIFFs with, writes its errors to stderr, beside this program's own lines."""

import contextlib
import ctypes
import sys
from functools import cache
from pathlib import Path

import PIL

_SYSTEM_NAMES = ("libtiff.so.6", "libtiff.so.5", "libtiff.6.dylib")


@cache
def silence_libtiff() -> None:
    """Let it write nothing: what is wrong with a file, Pillow says too. Does nothing if the library is not found."""
    if sys.platform == "win32":  # part of Pillow's own library there
        return
    package = Path(PIL.__file__).parent
    own = [*package.with_name("pillow.libs").glob("libtiff*"), *package.glob(".dylibs/libtiff*")]
    for name in [str(path) for path in own] or _SYSTEM_NAMES:
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            for kind in ("Error", "Warning"):
                set_handler = getattr(library, f"TIFFSet{kind}Handler")
                set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
                set_handler(None)
            return
