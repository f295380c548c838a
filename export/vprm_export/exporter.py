"""The stages of an export, in order: read, build, write, finish.

| stage  | requires                          | ensures                                                        |
|--------|-----------------------------------|----------------------------------------------------------------|
| read   | a checkpoint directory            | every header read, architecture known, tokenizer converted     |
| build  | the above                         | both graphs stand, every tensor found, shaped right and used   |
| write  | an empty temporary sibling folder | graphs, weights and tokenizer in it, hashed                    |
| finish | the above                         | manifest written, folder renamed: the bundle exists, whole     |

Nothing is written before everything has been checked, and the bundle's name appears only in the last stage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vprm_export.architecture import Architecture
from vprm_export.checkpoint import Checkpoint
from vprm_export.export_stages import naming, stage, temporary_sibling
from vprm_export.external_data import ExternalData
from vprm_export.graphs.llm import build_llm_graph
from vprm_export.graphs.vision import build_vision_graph
from vprm_export.head import check_head
from vprm_export.hf_layout import as_hub_layout, check_image_tokens, is_hf_layout, note_unread_processor
from vprm_export.precision.resolve import PrecisionOptions, plan_llm, plan_vision
from vprm_export.readings import Readings
from vprm_export.score_rules import RuleText, find_score_rule
from vprm_export.templates import DEFAULT_SYSTEM_MESSAGES
from vprm_export.tokenizer_files import BundleTokenizer, load_tokenizer
from vprm_export.weights import TensorReader
from vprm_runtime.bundle.bundle import file_info
from vprm_runtime.bundle.graph_io import llm_io, vision_io
from vprm_runtime.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    FileInfo,
    GraphInfo,
    GraphsInfo,
    Manifest,
    ModelInfo,
    Precision,
    PromptInfo,
    Provenance,
    Target,
    TilingInfo,
)
from vprm_runtime.errors import BundleError, CheckpointError
from vprm_runtime.extras import installed_version
from vprm_runtime.prompt.score_rule import ScoreRule

Progress = Callable[[int, int], None]  # bytes written so far, bytes in all
_TOOLS = ("vprm", "onnx-ir", "numpy", "tokenizers")


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a checkpoint. `vision_precision` None: the LLM's, or its floating type if the LLM is
    quantised; `system_message` None: the model's own; `score_rule`: a name of vprm_export.score_rules.SCORE_RULES, or
    the path of a rule file; `target`, `calibration` and `keep_high`: see vprm_export.precision.resolve;
    `allow_nonfinite`: export weights that are NaN or infinite too.
    """

    precision: Precision = "fp32"
    vision_precision: Precision | None = None
    system_message: str | None = None
    score_rule: str = "visualprm"
    target: Target = "cpu"
    calibration: Path | None = None
    keep_high: int | tuple[str, ...] = 0
    allow_nonfinite: bool = False

    @property
    def precision_options(self) -> PrecisionOptions:
        """What concerns precision."""
        return PrecisionOptions(self.precision, self.vision_precision, self.target, self.calibration, self.keep_high)


def export_bundle(
    checkpoint_path: str | Path,
    bundle_path: str | Path,
    options: ExportOptions = ExportOptions(),
    progress: Progress = lambda written, total: None,
) -> Manifest:
    """Export a checkpoint directory to a bundle directory, which must not exist yet.

    Raises CheckpointError or UnsupportedError naming the tensor, key or file, BundleError if the bundle cannot be
    written (exists already, disk full). On any error nothing is left behind.
    """
    target = Path(bundle_path)
    if target.exists():
        raise BundleError(f"{target} exists already: remove it or choose another name")
    with stage("read"):
        readings = Readings()
        checkpoint = Checkpoint.open(checkpoint_path, readings)
        if is_hf_layout(checkpoint.config):
            checkpoint = as_hub_layout(checkpoint, readings)
        else:
            note_unread_processor(checkpoint.path, readings)
        architecture = Architecture.from_config(checkpoint.config, checkpoint.path, readings)
        check_head(checkpoint, architecture, readings)
        rule = find_score_rule(options.score_rule)
        tokenizer = load_tokenizer(checkpoint.path, readings)
        check_image_tokens(checkpoint.config, tokenizer.control.img_context, architecture, readings)
        if rule.marker is not None:
            tokenizer = tokenizer.with_special(rule.marker)
    with stage("build"):
        plan = _build(checkpoint, architecture, tokenizer, rule, options, readings)
    with stage("write"), temporary_sibling(target, plan.size_bytes) as directory:
        files = _write(plan, tokenizer, directory, progress)
        manifest = _manifest(checkpoint, architecture, tokenizer, plan, readings, files)
        (directory / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return manifest


@dataclass(frozen=True)
class _BuiltGraph:
    info: GraphInfo
    model: ir.Model
    data: ExternalData


@dataclass(frozen=True)
class _BuiltGraphs:
    """Both graphs, built but not yet written."""

    vision: _BuiltGraph
    llm: _BuiltGraph
    prompt: PromptInfo
    score_rule: ScoreRule

    @property
    def size_bytes(self) -> int:
        return self.vision.data.size_bytes + self.llm.data.size_bytes


def _build(
    checkpoint: Checkpoint,
    architecture: Architecture,
    tokenizer: BundleTokenizer,
    rule_text: RuleText,
    options: ExportOptions,
    readings: Readings,
) -> _BuiltGraphs:
    vision, llm = architecture.vision, architecture.llm
    highest = max(tokenizer.control.img_context, tokenizer.tokenizer.get_vocab_size() - 1)
    if highest >= llm.vocabulary:
        raise CheckpointError(
            f"token id {highest} is outside of vocab_size {llm.vocabulary}: tokenizer of another model?"
        )
    reader = TensorReader(checkpoint, allow_nonfinite=options.allow_nonfinite)
    llm_plan, vision_plan = plan_llm(options.precision_options, llm, reader), plan_vision(options.precision_options)
    llm_graph, vision_graph = llm_plan.info, vision_plan.info
    vision_data, llm_data = ExternalData(vision_graph.files[1]), ExternalData(llm_graph.files[1])
    vision_model = build_vision_graph(
        vision,
        llm.hidden_size,
        reader,
        vision_io(tile_size_px=vision.image_px, hidden_size=llm.hidden_size, dtype=vision_graph.io_dtype),
        np.dtype(vision_graph.io_dtype),
        vision_data,
        vision_plan.linear_formats,
        vision_plan.native_attention,
    )
    rule = rule_text.with_ids(tokenizer)
    llm_model = build_llm_graph(
        llm,
        tokenizer.control.img_context,
        [candidate.id for candidate in rule.candidates],
        llm_plan.weights,
        llm_io(
            layers=llm.layers,
            hidden_size=llm.hidden_size,
            kv_width=llm.kv_heads * llm.head_dim,
            candidates=len(rule.candidates),
            dtype=llm_graph.io_dtype,
        ),
        llm_plan.numbers,
        llm_data,
    )
    reader.check_all_used(architecture.is_idle)
    system_message = _system_message(options, rule_text, architecture, readings)
    return _BuiltGraphs(
        _BuiltGraph(vision_graph, vision_model, vision_data),
        _BuiltGraph(llm_graph, llm_model, llm_data),
        PromptInfo(architecture.template, system_message),
        rule,
    )


def _system_message(options: ExportOptions, rule: RuleText, architecture: Architecture, readings: Readings) -> str:
    """The user's, else the checkpoint's (unless the rule has the template's), else the template's."""
    default = DEFAULT_SYSTEM_MESSAGES[architecture.template]
    if options.system_message is not None:
        message, source = options.system_message, "--system-message"
    elif rule.default_system_message:
        message, source = default, f"template {architecture.template}, as score rule {rule.name} has it"
    elif architecture.system_message is not None:
        message, source = architecture.system_message, "config.json: system_message"
    else:
        readings.assume(
            "system message", repr(default), f"config.json has none: template {architecture.template}'s own"
        )
        return default
    readings.read("system message", repr(message), source)
    return message


def _write(plan: _BuiltGraphs, tokenizer: BundleTokenizer, directory: Path, progress: Progress) -> dict[str, FileInfo]:
    files: dict[str, FileInfo] = {}
    with naming(TOKENIZER_NAME):
        (directory / TOKENIZER_NAME).write_text(tokenizer.json_text, "utf-8")
    done = 0

    def advance(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        progress(done, plan.size_bytes)

    for graph in (plan.vision, plan.llm):
        with naming(graph.data.file_name):
            files[graph.data.file_name] = graph.data.write(directory, advance)
        with naming(graph.info.file):
            ir.save(graph.model, directory / graph.info.file)
        files[graph.info.file] = file_info(directory / graph.info.file)
    files[TOKENIZER_NAME] = file_info(directory / TOKENIZER_NAME)
    return dict(sorted(files.items()))


def _manifest(
    checkpoint: Checkpoint,
    architecture: Architecture,
    tokenizer: BundleTokenizer,
    plan: _BuiltGraphs,
    readings: Readings,
    files: dict[str, FileInfo],
) -> Manifest:
    vision, llm = architecture.vision, architecture.llm
    return Manifest(
        schema_version=SCHEMA_VERSION,
        model=ModelInfo(
            name=checkpoint.name,
            llm_family=llm.family,
            layers=llm.layers,
            hidden_size=llm.hidden_size,
            kv_heads=llm.kv_heads,
            head_dim=llm.head_dim,
            max_positions_tokens=llm.max_positions_tokens,
            tokens_per_tile=vision.tokens_per_tile,
        ),
        tokens=tokenizer.control,
        prompt=plan.prompt,
        score_rule=plan.score_rule,
        tiling=TilingInfo(vision.image_px, architecture.min_tiles, architecture.max_tiles, architecture.use_thumbnail),
        graphs=GraphsInfo(plan.vision.info, plan.llm.info),
        provenance=Provenance(
            checkpoint=checkpoint.name,
            config_sha256=checkpoint.config_sha256,
            tools={tool: installed_version(tool) or "not installed" for tool in _TOOLS},
            readings=readings.all,
            revision=checkpoint.revision,
        ),
        files=files,
    )
