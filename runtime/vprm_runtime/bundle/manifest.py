"""`manifest.json` of a bundle, as frozen dataclasses; read strictly, written deterministically."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from vprm_runtime.bundle.dataclass_json import parsed
from vprm_runtime.bundle.graph_io import FloatDType, GraphIO, llm_io, vision_io
from vprm_runtime.errors import BundleError, quoted
from vprm_runtime.prompt.score_rule import ScoreRule
from vprm_runtime.strict_json import loads

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
HASH_KEY = "manifest_sha256"
_NO_HASH = "0" * 64

_OPTIONAL = frozenset({"optimisation", "revision"})
"""Keys that are left out of the file if nothing is known; all others have to be there."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "w8", "w4", "fp8"]
Target = Literal["cpu", "cpu-native", "tensorrt"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class ModelInfo:
    """Dimensions that the runtime needs."""

    name: str
    llm_family: Literal["internlm2", "llama", "qwen2"]
    layers: int
    hidden_size: int
    kv_heads: int
    head_dim: int
    max_positions_tokens: int
    tokens_per_tile: int

    @property
    def kv_width(self) -> int:
        """Width of one cached key or value row."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class ControlTokens:
    """Ids that only the prompt builder may emit; user text never becomes one of them."""

    bos: int | None
    im_start: int
    im_end: int
    img_start: int
    img_end: int
    img_context: int


@dataclass(frozen=True)
class PromptInfo:
    """Chat template name and the system message that the model was trained with."""

    template: str
    system_message: str


@dataclass(frozen=True)
class TilingInfo:
    """Dynamic tiling constants: tile edge in pixels, tiles per image, whether a thumbnail is appended."""

    tile_size_px: int
    min_tiles: int
    max_tiles: int
    use_thumbnail: bool

    def limited(self, max_tiles: int | None) -> "TilingInfo":
        """The same with at most `max_tiles` tiles beside the thumbnail; None changes nothing."""
        if max_tiles is None:
            return self
        return replace(self, min_tiles=min(self.min_tiles, max_tiles), max_tiles=max_tiles)


@dataclass(frozen=True)
class Quantization:
    """How a graph's Linears are quantised, for which engines, and which of them are not."""

    target: Target
    linears: str
    calibration_sha256: str | None
    kept_high: tuple[str, ...]


@dataclass(frozen=True)
class GraphInfo:
    """One graph: its ONNX file (external data beside it), precision and floating type of its inputs and outputs."""

    file: str
    precision: Precision
    io_dtype: FloatDType
    quantisation: Quantization | None = None

    @property
    def files(self) -> tuple[str, str]:
        """Names of the ONNX file and of its external data, which the exporter writes beside it."""
        return self.file, f"{self.file}.data"

    @property
    def is_native(self) -> bool:
        """Whether the graph has this package's own operator, which only ONNX Runtime on the CPU runs."""
        return self.quantisation is not None and self.quantisation.target == "cpu-native"


@dataclass(frozen=True)
class GraphsInfo:
    """The two graphs of a bundle."""

    vision: GraphInfo
    llm: GraphInfo


@dataclass(frozen=True)
class FileInfo:
    """Size and hash of one file of the bundle."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Reading:
    """Something that decides scores, its value, and where it was read from; or, if `assumed`, why it was taken."""

    what: str
    value: str
    source: str
    assumed: bool


@dataclass(frozen=True)
class Provenance:
    """Where the bundle came from: checkpoint name, hash of its config.json, the tools that wrote the bundle, and what
    the export read or assumed. `revision` is the hub's, if the checkpoint lies in its cache.
    """

    checkpoint: str
    config_sha256: str
    tools: dict[str, str]
    readings: tuple[Reading, ...]
    revision: str | None = None


@dataclass(frozen=True)
class Optimisation:
    """What `vprm optimize` found out about the bundle. The whole report, with speeds, is in `report.json` beside it.

    `figures` are those of judging, `budget` what each may be at most; `reason` of the choice is in the report.
    """

    made_for: str
    goal: str
    recipe: str
    device: str
    rows: str
    rows_judged: int
    figures: dict[str, float]
    budget: dict[str, float]


@dataclass(frozen=True)
class Manifest:
    """The whole of `manifest.json`."""

    schema_version: int
    model: ModelInfo
    tokens: ControlTokens
    prompt: PromptInfo
    score_rule: ScoreRule
    tiling: TilingInfo
    graphs: GraphsInfo
    provenance: Provenance
    files: dict[str, FileInfo]
    optimisation: Optimisation | None = None

    @property
    def graph_io(self) -> tuple[GraphIO, GraphIO]:
        """Inputs and outputs of the vision and the LLM graph."""
        model, graphs = self.model, self.graphs
        vision = vision_io(
            tile_size_px=self.tiling.tile_size_px, hidden_size=model.hidden_size, dtype=graphs.vision.io_dtype
        )
        llm = llm_io(
            layers=model.layers,
            hidden_size=model.hidden_size,
            kv_width=model.kv_width,
            candidates=len(self.score_rule.candidates),
            dtype=graphs.llm.io_dtype,
        )
        return vision, llm

    def files_of(self, graph: GraphInfo) -> dict[str, FileInfo]:
        """The bundle's files that are one graph's."""
        return {name: self.files[name] for name in graph.files if name in self.files}

    @property
    def llm_bytes(self) -> int:
        """Size of the LLM's graph and its weights."""
        return sum(info.size_bytes for info in self.files_of(self.graphs.llm).values())

    @property
    def cache_row_bytes(self) -> int:
        """Memory of one cached token: its keys and values in all layers."""
        itemsize = {"float32": 4, "float16": 2}[self.graphs.llm.io_dtype]
        return self.model.layers * 2 * self.model.kv_width * itemsize

    def check_tensors(self, vision: Iterable[str], llm: Iterable[str]) -> None:
        """Raise BundleError unless these are the names of all inputs and outputs of both graphs."""
        for graph, io, found in zip((self.graphs.vision, self.graphs.llm), self.graph_io, (vision, llm), strict=True):
            expected = {spec.name for spec in (*io.inputs, *io.outputs)}
            if different := sorted(expected ^ set(found)):
                raise BundleError(
                    f"{graph.file} and {MANIFEST_NAME} do not belong together: {len(different)} inputs and outputs are "
                    f"in one of them only, the first is {different[0]!r}; export the bundle again"
                )

    @property
    def fingerprint(self) -> str:
        """The bundle, as runs over rows are described: it names the hash of every file."""
        return f"sha256:{hashlib.sha256(self.to_json().encode()).hexdigest()}"

    def to_json(self) -> str:
        """Deterministic JSON text. Its last key, `manifest_sha256`, is the text's own hash: see `text_hash`."""
        document = asdict(self)
        for part in (document, document["provenance"]):
            for name in _OPTIONAL & set(part):
                if part[name] is None:
                    del part[name]
        text = json.dumps({**document, HASH_KEY: _NO_HASH}, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
        head, _, tail = text.rpartition(_NO_HASH)
        return head + text_hash(text.encode()) + tail

    @staticmethod
    def from_json(text: str | bytes) -> "Manifest":
        """Parse; check keys and types, not ranges (limits.py) nor the hash. Raises BundleError naming the wrong key."""
        try:
            document = loads(text)
        except ValueError as error:
            raise BundleError(
                f"{MANIFEST_NAME} is not JSON ({quoted(error)}): copy the bundle again, or export it again"
            ) from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{MANIFEST_NAME} has schema_version {quoted(repr(version))}, this vprm reads {SCHEMA_VERSION}: "
                "export the bundle again with this version"
            )
        if not re.fullmatch("[0-9a-f]{64}", str(document.pop(HASH_KEY, ""))):
            raise BundleError(f"{MANIFEST_NAME} has no {HASH_KEY}: export the bundle again with this version")
        try:
            return parsed(Manifest, document, MANIFEST_NAME, _OPTIONAL)
        except ValueError as error:
            raise BundleError(f"{error}: export the bundle again with this version") from error


def text_hash(text: bytes) -> str:
    """sha256 of a manifest's bytes with zeros in place of the hash that it ends with."""
    head, key, tail = text.rpartition(f'"{HASH_KEY}": "'.encode())
    return hashlib.sha256(head + key + _NO_HASH.encode() + tail[len(_NO_HASH) :]).hexdigest()


def check_text(text: bytes) -> None:
    """Raise BundleError unless a manifest's bytes are those that were written."""
    written = text.rpartition(f'"{HASH_KEY}": "'.encode())[2][: len(_NO_HASH)]
    if written != text_hash(text).encode():
        raise BundleError(
            f"{MANIFEST_NAME} was changed after it was written (its {HASH_KEY} differs): copy the bundle again, or "
            "export it again"
        )
