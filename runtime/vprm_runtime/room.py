"""Whether memory and disk suffice for what is about to begin: said before it begins, with the figures."""

from pathlib import Path

from vprm_runtime.errors import EngineError
from vprm_runtime.machine import available_memory_bytes, free_disk_bytes


def check_room(what: str, *, memory_bytes: float = 0, disk_bytes: float = 0, folder: Path | None = None) -> None:
    """Raise EngineError if there is less than `what` needs at least.

    `disk_bytes` are those in `folder` (None: not asked). What the system does not say is not checked.
    """
    memory = available_memory_bytes() if memory_bytes else None
    if memory is not None and memory < memory_bytes:
        raise EngineError(
            f"{what} needs at least {memory_bytes / 1e9:,.1f} GB of memory, {memory / 1e9:,.1f} GB are available: end "
            "other programs, or take a smaller model"
        )
    disk = free_disk_bytes(folder) if disk_bytes and folder is not None else None
    if disk is not None and disk < disk_bytes:
        raise EngineError(
            f"{what} needs {disk_bytes / 1e9:,.1f} GB of disk, {folder} has {disk / 1e9:,.1f} GB free: make room, or "
            "name a folder on another disk"
        )
