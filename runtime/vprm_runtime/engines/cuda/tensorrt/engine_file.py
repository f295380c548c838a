"""`engines/<name>/engine.json`: what an engine was built from, by what, for which device, and what it compiled to."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from vprm_runtime.bundle.bundle import Bundle
from vprm_runtime.bundle.dataclass_json import parsed
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
    `problems` says in words what is not as the bundle's precision wants it; empty is good. `read` is False if the
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
        """Read `engine.json`. Raises EngineError if it is missing, damaged or of another version."""
        path = directory / INFO_NAME
        try:
            document = json.loads(path.read_text("utf-8"))
            if document["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {document['schema_version']!r}, this vprm reads {SCHEMA_VERSION}")
            return parsed(EngineInfo, document, INFO_NAME)
        except OSError as error:
            raise EngineError(f"{path} cannot be read ({error.strerror}): {REBUILD}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{path} is not an engine description of this version ({error}): {REBUILD}") from error


REBUILD = "build the engine again with  vprm build BUNDLE --engine tensorrt|tensorrt-rtx"


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
