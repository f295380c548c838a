"""Pick an engine by what is asked for, installed and present."""

from vprm_runtime.bundle import Bundle
from vprm_runtime.engines.base import Engine
from vprm_runtime.engines.ort import OrtEngine
from vprm_runtime.errors import InputError

DEVICES = ("cpu",)


def open_engine(bundle: Bundle, device: str = "auto", threads: int | None = None) -> Engine:
    """Open an engine for `device`: "auto" or one of DEVICES. `threads` limits CPU threads (None: all cores).

    Raises InputError on an unknown device, MissingExtraError or EngineError where its library cannot be used.
    """
    if device not in ("auto", *DEVICES):
        raise InputError(f"unknown device {device!r}: use auto or {', '.join(DEVICES)}")
    return OrtEngine(bundle, threads=threads)
