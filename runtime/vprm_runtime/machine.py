"""Facts of the machine that a process runs on: CPU, memory, disk, GPUs. Needs no library beside Python's own."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# As the kernel names them in /proc/cpuinfo, on x86 ("flags") and Arm ("Features"); those that matter to products.
INSTRUCTION_SETS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
_NVIDIA_QUERY = (
    "nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits",
)  # fmt: skip
_NVIDIA_TIMEOUT_S = 20  # a card that sleeps takes some seconds to answer


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver describes it. `compute_capability` is 89 for 8.9."""

    name: str
    compute_capability: int
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class Machine:
    """What decides which bundle is fastest. Memory in bytes; None if the system does not say."""

    system: str
    architecture: str
    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int | None
    gpus: tuple[Gpu, ...]


def this_machine() -> Machine:
    """Facts of the machine that this process runs on."""
    lines = _cpuinfo()
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        cpu=lines.get("model name") or platform.processor() or platform.machine(),
        cores=available_cores(),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        memory_bytes=memory_bytes(),
        gpus=gpus(),
    )


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of the machine, or what a container allows of it."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    except (OSError, ValueError):  # no such limit, or "max"
        return installed


def available_memory_bytes() -> int | None:
    """Memory that a new process could have now; None if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else min(int(found.split()[1]) * 1024, memory_bytes() or 1 << 62)


def free_disk_bytes(path: Path) -> int | None:
    """Bytes free where `path` is or would be; None if that cannot be found out."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def cache_directory() -> Path:
    """Where this package keeps what it can make again: $VPRM_CACHE, or ~/.cache/vprm."""
    return Path(os.environ.get("VPRM_CACHE") or Path.home() / ".cache" / "vprm")


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs by `nvidia-smi`, which comes with the driver; none if it is missing or fails."""
    try:
        listed = subprocess.run(_NVIDIA_QUERY, capture_output=True, text=True, timeout=_NVIDIA_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return gpus_of(listed.stdout) if listed.returncode == 0 else ()


def gpus_of(listed: str) -> tuple[Gpu, ...]:
    """GPUs of nvidia-smi's lines "name, 8.9, MiB, driver"; lines that are not of this form are left out."""
    found = []
    for line in listed.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 3)]
        try:
            name, capability, mebibytes, driver = parts
            major, minor = capability.split(".")
            found.append(Gpu(name, int(major) * 10 + int(minor), int(mebibytes) << 20, driver))
        except ValueError:
            continue
    return tuple(found)


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty on systems without."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
