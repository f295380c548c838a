"""Whether an engine can be used: it is tied to the bundle (its weights), the library's version and the device.

All three are checked before TensorRT sees a byte, because its own messages name none of them.
"""

from pathlib import Path

from vprm_runtime.bundle.bundle import Bundle, file_info
from vprm_runtime.engines.cuda.tensorrt.engine_file import REBUILD, EngineInfo, bundle_fingerprint
from vprm_runtime.errors import EngineError


def check_bundle(info: EngineInfo, bundle: Bundle) -> None:
    """Raise EngineError if the engine was built from other weights than the bundle's."""
    expected = bundle_fingerprint(bundle)
    if info.bundle_sha256 != expected:
        raise EngineError(
            f"engine {info.name} was built from another bundle (graphs {info.bundle_sha256[:12]}, this bundle's are "
            f"{expected[:12]}): {REBUILD}"
        )


def check_files(info: EngineInfo, directory: Path) -> None:
    """Raise EngineError if an engine file is missing or of another size."""
    for graph in (info.vision, info.llm):
        path = directory / graph.file
        size = path.stat().st_size if path.is_file() else None
        if size != graph.size_bytes:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise EngineError(f"engine file {path} {found}, expected {graph.size_bytes:,} bytes: {REBUILD}")


def check_hashes(info: EngineInfo, directory: Path) -> None:
    """Raise EngineError if an engine file has other bytes than were written."""
    for graph in (info.vision, info.llm):
        if file_info(directory / graph.file).sha256 != graph.sha256:
            raise EngineError(f"sha256 differs for engine file {directory / graph.file}, it is damaged: {REBUILD}")


def check_library(info: EngineInfo, version: str) -> None:
    """Raise EngineError if the engine is of another version than `version` of its library."""
    if info.library_version != version:
        raise EngineError(
            f"engine {info.name} was built by {info.library} {info.library_version}, installed is {info.library} "
            f"{version}: install that version or {REBUILD}"
        )


def check_device(info: EngineInfo, compute_capability: int, device_name: str) -> None:
    """Raise EngineError if the device is not the one that the engine was built for."""
    if info.compute_capability != compute_capability:
        raise EngineError(
            f"engine {info.name} was built for compute capability {_dotted(info.compute_capability)}, "
            f"{device_name} has {_dotted(compute_capability)}: "
            f"run  vprm build BUNDLE --engine {info.library} --sm {compute_capability}"
        )


def _dotted(compute_capability: int) -> str:
    return f"{compute_capability // 10}.{compute_capability % 10}"
