"""`engines/<name>/engine.json`: what an engine was built from, by what, for which device, and what it compiled to.

An engine is tied to the bundle (its weights), the library's version and the device's compute capability. All three are
checked before TensorRT sees a byte, because its own messages name none of them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vprm_runtime.bundle.bundle import Bundle, file_info
from vprm_runtime.engines.cuda.limits import Limits
from vprm_runtime.engines.cuda.profiles import TensorShapes
from vprm_runtime.errors import EngineError

SCHEMA_VERSION = 1
ENGINES_FOLDER = "engines"
INFO_NAME = "engine.json"

Library = Literal["tensorrt", "tensorrt-rtx"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
Weights = Literal["full", "stripped"]


@dataclass(frozen=True)
class CompiledCheck:
    """What the compiled engine does with the graph's costly nodes, read from the engine itself.

    `matmuls` counts the graph's matrix products by operand types, e.g. {"int8 x int8": 28, "float x float": 1}.
    `problems` says in words what is not as the bundle's precision wants it; empty is good. `read` is False where the
    library's engines cannot be read.
    """

    read: bool
    attention_nodes: int
    fused_attention_nodes: int
    matmuls: Mapping[str, int]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class GraphEngine:
    """One engine file: of which graph file, its profiles, the memory it needs on the device, how it was built."""

    file: str
    size_bytes: int
    sha256: str
    precision: str
    profiles: tuple[Mapping[str, TensorShapes], ...]
    weights_bytes: int
    workspace_bytes: int
    build_s: float
    check: CompiledCheck


@dataclass(frozen=True)
class EngineInfo:
    """The whole of `engine.json`."""

    schema_version: int
    library: Library
    library_version: str
    compute_capability: int  # 89 for 8.9
    weights: Weights
    profile: str
    bundle_sha256: str
    vision: GraphEngine
    llm: GraphEngine

    @property
    def name(self) -> str:
        """Name of the engine's directory."""
        return engine_name(self.library, self.compute_capability)

    def to_json(self) -> str:
        """Deterministic JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def read(directory: Path) -> "EngineInfo":
        """Read `engine.json`. Raises EngineError where it is missing, damaged or of another version."""
        path = directory / INFO_NAME
        try:
            document = json.loads(path.read_text("utf-8"))
            if document["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {document['schema_version']!r}, this vprm reads {SCHEMA_VERSION}")
            return EngineInfo(
                **{**document, "vision": _graph_engine(document["vision"]), "llm": _graph_engine(document["llm"])}
            )
        except OSError as error:
            raise EngineError(f"{path} cannot be read ({error.strerror}): {_REBUILD}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{path} is not an engine description of this version ({error}): {_REBUILD}") from error


_REBUILD = "build the engine again with  vprm build BUNDLE --engine tensorrt|tensorrt-rtx"


def engine_name(library: Library, compute_capability: int) -> str:
    """Name of an engine's directory, e.g. tensorrt-rtx-sm89."""
    return f"{library}-sm{compute_capability}"


def bundle_fingerprint(bundle: Bundle) -> str:
    """One hash over all of the bundle's graph files, from the manifest: engines of other weights have another."""
    manifest = bundle.manifest
    files = manifest.files_of(manifest.graphs.vision) | manifest.files_of(manifest.graphs.llm)
    lines = [f"{name} {info.sha256}\n" for name, info in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def engine_directories(bundle: Bundle) -> list[Path]:
    """Directories of the engines that were built into a bundle."""
    return sorted(path.parent for path in (bundle.path / ENGINES_FOLDER).glob(f"*/{INFO_NAME}"))


def inspect_engines(bundle: Bundle, verify: bool = False) -> list[dict[str, Any]]:
    """For `vprm inspect`: a JSON-ready description of each engine; `error` says why one cannot be used. `verify`: also
    read the engine files and compare their hashes."""
    described: list[dict[str, Any]] = []
    for directory in engine_directories(bundle):
        entry: dict[str, Any] = {"name": directory.name, "error": None}
        try:
            info = EngineInfo.read(directory)
            entry |= asdict(info)
            check_bundle(info, bundle)
            check_files(info, directory)
            if verify:
                check_hashes(info, directory)
        except EngineError as error:
            entry["error"] = str(error)
        described.append(entry)
    return described


def engine_lines(info: EngineInfo) -> list[str]:
    """What an engine is, in lines for people."""
    limits = Limits.of(info.vision.profiles, info.llm.profiles)
    lines = [
        f"{info.name}: {info.library} {info.library_version}, profile {info.profile}, {info.weights} weights",
        f"  a run takes {limits.tiles} tiles, or {limits.tokens:,} tokens behind {limits.past:,} cached ones, at most",
    ]
    for name, graph in (("vision", info.vision), ("llm", info.llm)):
        lines.append(
            f"  {name}: {graph.precision}, {graph.size_bytes / 1e6:,.1f} MB in {graph.build_s:.1f} s, "
            f"workspace {graph.workspace_bytes / 1e6:,.1f} MB, {_compiled(graph)}"
        )
        lines += [f"    problem: {problem}" for problem in graph.check.problems]
    return lines


def check_bundle(info: EngineInfo, bundle: Bundle) -> None:
    """Raise EngineError where the engine was built from other weights than the bundle's."""
    expected = bundle_fingerprint(bundle)
    if info.bundle_sha256 != expected:
        raise EngineError(
            f"engine {info.name} was built from another bundle (graphs {info.bundle_sha256[:12]}, this bundle's are "
            f"{expected[:12]}): {_REBUILD}"
        )


def check_files(info: EngineInfo, directory: Path) -> None:
    """Raise EngineError where an engine file is missing or of another size."""
    for graph in (info.vision, info.llm):
        path = directory / graph.file
        size = path.stat().st_size if path.is_file() else None
        if size != graph.size_bytes:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise EngineError(f"engine file {path} {found}, expected {graph.size_bytes:,} bytes: {_REBUILD}")


def check_hashes(info: EngineInfo, directory: Path) -> None:
    """Raise EngineError where an engine file has other bytes than were written."""
    for graph in (info.vision, info.llm):
        if file_info(directory / graph.file).sha256 != graph.sha256:
            raise EngineError(f"sha256 differs for engine file {directory / graph.file}, it is damaged: {_REBUILD}")


def check_library(info: EngineInfo, library: Library, version: str) -> None:
    """Raise EngineError where the engine is another library's or another version's."""
    if (info.library, info.library_version) != (library, version):
        raise EngineError(
            f"engine {info.name} was built by {info.library} {info.library_version}, installed is {library} {version}: "
            f"install that version or {_REBUILD}"
        )


def check_device(info: EngineInfo, compute_capability: int, device_name: str) -> None:
    """Raise EngineError where the device is not the one that the engine was built for."""
    if info.compute_capability != compute_capability:
        raise EngineError(
            f"engine {info.name} was built for compute capability {_dotted(info.compute_capability)}, "
            f"{device_name} has {_dotted(compute_capability)}: "
            f"run  vprm build BUNDLE --engine {info.library} --sm {compute_capability}"
        )


def _dotted(compute_capability: int) -> str:
    return f"{compute_capability // 10}.{compute_capability % 10}"


def _graph_engine(document: dict[str, Any]) -> GraphEngine:
    profiles = tuple(
        {name: TensorShapes(*(tuple(shapes[which]) for which in ("min", "opt", "max"))) for name, shapes in one.items()}
        for one in document["profiles"]
    )
    check = CompiledCheck(**{**document["check"], "problems": tuple(document["check"]["problems"])})
    return GraphEngine(**{**document, "profiles": profiles, "check": check})


def _compiled(graph: GraphEngine) -> str:
    """What the engine does with the costly nodes, in words."""
    check = graph.check
    if not check.read:
        return "compiled kernels cannot be read from this library's engines"
    matmuls = ", ".join(f"{count} of {pair}" for pair, count in check.matmuls.items())
    return f"attention fused in {check.fused_attention_nodes} of {check.attention_nodes}, products {matmuls}"
