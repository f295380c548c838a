"""What this machine can run, what is missing, and the command that mends it.

`diagnose` only looks: it opens no model and changes nothing, but for a file in the cache folder that it writes and
removes. It works in an install without any extra.
"""

import importlib
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Literal

from PIL import features

from vprm_runtime import native
from vprm_runtime.errors import EngineError
from vprm_runtime.extras import DEVELOPMENT, installed_version, missing_distributions
from vprm_runtime.machine import (
    Machine,
    available_memory_bytes,
    cache_directory,
    free_disk_bytes,
    this_machine,
)

State = Literal["ok", "note", "missing", "broken"]
_ENGINE = "engine "  # before the name of --device, in an area
_GB = 1_000_000_000
_LITTLE_DISK_BYTES = 5 * _GB
_PILLOW_FEATURES = {"jpg": "JPEG", "webp": "WEBP", "avif": "AVIF", "libtiff": "compressed TIFF"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `mend` is a command or an instruction; empty if nothing has to be done."""

    area: str
    state: State
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and the devices of `--device` that can score here, best first."""

    machine: Machine
    findings: tuple[Finding, ...]
    devices: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Look at the machine and the installation."""
    machine = this_machine()
    engines = tuple(_engine_findings(machine))
    findings = (
        *_machine_findings(machine),
        *engines,
        *_package_findings(),
        *_extra_findings(),
        *_folder_findings(),
    )
    devices = tuple(found.area.removeprefix(_ENGINE) for found in engines if found.state == "ok")
    return Diagnosis(machine, findings, devices)


def _machine_findings(machine: Machine) -> Iterator[Finding]:
    sets = ", ".join(machine.instruction_sets) or "none that matter to matrix products"
    yield Finding("cpu", "ok", f"{machine.cpu}, {machine.cores} cores ({sets})")
    yield _native_finding(machine)
    free = available_memory_bytes()
    if machine.memory_bytes is not None:
        text = f"{machine.memory_bytes / _GB:.1f} GB" + ("" if free is None else f", {free / _GB:.1f} GB available")
        yield Finding("memory", "ok", text)
    for gpu in machine.gpus:
        kind = f"sm{gpu.compute_capability}, {gpu.memory_bytes / _GB:.0f} GB, driver {gpu.driver}"
        yield Finding("gpu", "ok", f"{gpu.name} ({kind})")
    if not machine.gpus:
        yield _no_gpu()


def _no_gpu() -> Finding:
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidiactl").exists():
        return Finding("gpu", "note", "no NVIDIA GPU, or no driver (nvidia-smi is not there)")
    mend = "install NVIDIA's driver again, or start the container with  --gpus all ; nvidia-smi should list the GPU"
    return Finding("gpu", "broken", "NVIDIA's driver is there, but nvidia-smi lists no GPU", mend)


def _native_finding(machine: Machine) -> Finding:
    """The package's own operators: what they can use here."""
    try:
        level = native.level()
    except EngineError as error:
        return Finding("native operators", "broken", str(error), "unset VPRM_NATIVE_LEVEL")
    if level:
        return Finding("native operators", "ok", f"{native.description()} (export with  --target cpu-native )")
    able = {"avx512_vnni", "amx_int8"} & set(machine.instruction_sets)
    if level is None and able and machine.system == "Linux":
        mend = "install a C compiler (gcc or clang), then  pip install --force-reinstall --no-deps vprm"
        return Finding(
            "native operators", "missing", f"the CPU has {', '.join(sorted(able))}, the library is not", mend
        )
    return Finding("native operators", "note", "this CPU has neither AVX-512 VNNI nor AMX INT8; standard operators run")


def _engine_findings(machine: Machine) -> Iterator[Finding]:
    """A finding for each device, the fastest first."""
    has_gpu = bool(machine.gpus)
    for device, module, distribution in (
        ("tensorrt", "tensorrt", "tensorrt"),
        ("tensorrt-rtx", "tensorrt_rtx", "tensorrt-rtx-cu13"),
    ):
        yield _gpu_library(device, module, distribution, has_gpu)
    yield _ort_cuda(has_gpu)
    problem = _import_problem("onnxruntime")
    if problem is None:
        yield Finding(f"{_ENGINE}cpu", "ok", f"onnxruntime {_first_version('onnxruntime', 'onnxruntime-gpu')}")
    elif _first_version("onnxruntime", "onnxruntime-gpu"):
        mend = "pip install --force-reinstall onnxruntime"
        yield Finding(f"{_ENGINE}cpu", "broken", f"onnxruntime cannot be imported: {problem}", mend)
    else:
        yield Finding(f"{_ENGINE}cpu", "missing", "onnxruntime is not installed", _install("cpu"))
    installed = installed_version("openvino")
    if installed:
        yield Finding(
            f"{_ENGINE}openvino", "ok", f"openvino {installed} (only if asked for: it may compute in bfloat16)"
        )
    else:
        yield Finding(f"{_ENGINE}openvino", "note", "openvino is not installed", _install("openvino"))


def _gpu_library(device: str, module: str, distribution: str, has_gpu: bool) -> Finding:
    if importlib.util.find_spec(module) is None:
        if has_gpu:
            return Finding(f"{_ENGINE}{device}", "missing", f"{distribution} is not installed", _install(device))
        if device == "tensorrt-rtx":
            text = f"{distribution} is not installed: it builds engines for other machines' GPUs ahead of time"
            return Finding(f"{_ENGINE}{device}", "note", text, _install(device))
        return Finding(f"{_ENGINE}{device}", "note", f"{distribution} is not installed; it needs a GPU")
    text = f"{distribution} {installed_version(distribution) or 'of unknown version'}"
    if not has_gpu:
        ahead = "; builds engines ahead of time" if device == "tensorrt-rtx" else ""
        return Finding(f"{_ENGINE}{device}", "note", f"{text}, but there is no GPU to score on{ahead}")
    if importlib.util.find_spec("cuda") is None:
        return Finding(f"{_ENGINE}{device}", "missing", f"{text}, but not cuda-python", _install(device))
    return Finding(f"{_ENGINE}{device}", "ok", text)


def _ort_cuda(has_gpu: bool) -> Finding:
    installed, plain = installed_version("onnxruntime-gpu"), installed_version("onnxruntime")
    if installed and plain:
        mend = "pip uninstall -y onnxruntime onnxruntime-gpu && " + _install("cuda")
        return Finding(f"{_ENGINE}cuda", "broken", "onnxruntime and onnxruntime-gpu overwrite each other's files", mend)
    if not installed and not has_gpu:
        return Finding(f"{_ENGINE}cuda", "note", "onnxruntime-gpu is not installed; it needs a GPU")
    if not installed:
        mend = ("pip uninstall -y onnxruntime && " if plain else "") + _install("cuda")
        return Finding(f"{_ENGINE}cuda", "missing", "onnxruntime-gpu is not installed", mend)
    if not has_gpu:
        return Finding(f"{_ENGINE}cuda", "note", f"onnxruntime-gpu {installed}, but there is no GPU to score on")
    if (problem := _import_problem("onnxruntime")) is not None:
        mend = "pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'"
        return Finding(f"{_ENGINE}cuda", "broken", f"onnxruntime-gpu cannot be imported: {problem}", mend)
    return Finding(f"{_ENGINE}cuda", "ok", f"onnxruntime-gpu {installed}")


def _package_findings() -> Iterator[Finding]:
    yield Finding("python", "ok", f"Python {platform.python_version()}, vprm {version('vprm')}")
    if shutil.which("vprm") is None:
        mend = "activate the environment that vprm is installed in, or use  python -m vprm"
        yield Finding("command", "note", "vprm is not on PATH", mend)
    unread = [name for key, name in _PILLOW_FEATURES.items() if not features.check(key)]
    if unread:
        mend = "pip install --force-reinstall --only-binary=:all: pillow"
        yield Finding("images", "missing", f"Pillow {version('pillow')} reads no {', '.join(unread)}", mend)
    else:
        yield Finding("images", "ok", f"Pillow {version('pillow')} reads every supported format")
    if hub := installed_version("huggingface_hub"):
        yield Finding(
            "hub",
            "ok",
            f"huggingface_hub {hub}: model ids can be given as checkpoints",
        )
    else:
        mend = "pip install huggingface_hub"
        yield Finding("hub", "note", "without huggingface_hub, checkpoints have to be downloaded by hand", mend)


def _extra_findings() -> Iterator[Finding]:
    """A finding for each extra that adds commands; engines have their own."""
    engines = {"cpu", "cuda", "openvino", "tensorrt", "tensorrt-rtx"}
    for extra in metadata("vprm").get_all("Provides-Extra") or ():
        if extra in engines | DEVELOPMENT:
            continue
        missing = missing_distributions(extra)
        if missing:
            yield Finding(f"extra {extra}", "note", f"not installed: {', '.join(missing)}", _install(extra))
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


def _folder_findings() -> Iterator[Finding]:
    folder = cache_directory()
    problem = _write_problem(folder)
    if problem is not None:
        mend = "set VPRM_CACHE to a folder that can be written to"
        yield Finding("cache folder", "broken", f"{folder} cannot be written to ({problem})", mend)
    else:
        yield Finding("cache folder", "ok", str(folder))
    free = free_disk_bytes(folder)
    if free is not None:
        few = free < _LITTLE_DISK_BYTES
        mend = "make room, or set VPRM_CACHE and TMPDIR to folders on a larger disk" if few else ""
        yield Finding("disk", "missing" if few else "ok", f"{free / _GB:.1f} GB free for the cache folder", mend)


def _write_problem(folder: Path) -> str | None:
    """Why no file can be written into a folder, or into the nearest one above it that exists; None if one can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        descriptor, name = tempfile.mkstemp(prefix=".vprm-doctor-", dir=folder)
    except OSError as error:
        return error.strerror or type(error).__name__
    os.close(descriptor)
    os.unlink(name)
    return None


def _import_problem(module: str) -> str | None:
    """Why a module cannot be imported; None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  a damaged install may raise anything
        return f"{type(error).__name__}: {error}"[:200]
    return None


def _first_version(*distributions: str) -> str | None:
    return next((found for name in distributions if (found := installed_version(name))), None)


def _install(extra: str) -> str:
    return f"pip install 'vprm[{extra}]'"
