"""A thread that needs little of a processor gets it sooner.

On a CPU the engine's threads keep all cores busy, and Linux lets whoever runs finish a turn of a millisecond or more.
The event loop, for which everybody waits, asks for turns of 0.1 ms: it gets no larger share, but it is next. With two
cores at three times the capacity, 99% of refusals took 3.3 and 3.6 ms instead of 4.5 and 4.9 in runs that took turns.

Source: sched_setattr(2); Linux takes sched_runtime as the turn of an ordinary thread since 6.12, and ignores it before.
"""

import ctypes
import os
import platform
import struct

SHORT_TURN_NS = 100_000
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # sched_setattr, sched_getattr
_ATTRIBUTES = "IIQiIQQQII"
_SIZE = struct.calcsize(_ATTRIBUTES)
_RESET_ON_FORK = 1
_RUNTIME = 5  # place among the attributes


def take_short_turns() -> None:
    """For the calling thread, not for those that it starts. Does nothing where the system cannot."""
    attributes = _attributes()
    if attributes is None or attributes[1] != os.SCHED_OTHER:
        return
    attributes[2] |= _RESET_ON_FORK
    attributes[_RUNTIME] = SHORT_TURN_NS
    _call(0, struct.pack(_ATTRIBUTES, *attributes))


def turn_ns() -> int | None:
    """The calling thread's turn; 0 or None where the system does not say."""
    attributes = _attributes()
    return None if attributes is None else attributes[_RUNTIME]


def _attributes() -> list[int] | None:
    read = ctypes.create_string_buffer(_SIZE)
    return list(struct.unpack(_ATTRIBUTES, read.raw)) if _call(1, read, _SIZE) else None


def _call(which: int, attributes: "bytes | ctypes.Array[ctypes.c_char]", *size: int) -> bool:
    calls = _CALLS.get(platform.machine())
    if platform.system() != "Linux" or calls is None:
        return False
    arguments = [*(ctypes.c_ulong(value) for value in size), ctypes.c_ulong(0)]  # size if it is read, flags
    return bool(ctypes.CDLL(None).syscall(ctypes.c_long(calls[which]), ctypes.c_long(0), attributes, *arguments) == 0)
