"""The same model through onnxruntime.quantization, wrapped as a bundle so that it is scored like ours."""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vprm_runtime.bundle import Bundle, file_info
from vprm_runtime.manifest import MANIFEST_NAME

Quantise = Callable[[Path, Path], None]  # (float model, where to write)


def ort_dynamic(source: Path, target: Path) -> None:
    """onnxruntime's quantize_dynamic with its defaults: a scale a tensor, for activations and for weights."""
    _ort_dynamic(source, target, per_channel=False)


def ort_dynamic_per_channel(source: Path, target: Path) -> None:
    """onnxruntime's quantize_dynamic with int8 weights, a scale a channel; activations keep one scale a tensor."""
    _ort_dynamic(source, target, per_channel=True)


def _ort_dynamic(source: Path, target: Path, per_channel: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def peer_bundle(source: Path, target: Path, quantise: Quantise) -> Path:
    """A copy of an fp32 bundle whose LLM graph went through `quantise`."""
    bundle = Bundle.open(source)
    graph = bundle.manifest.graphs.llm
    target.mkdir(parents=True)
    kept = {name: info for name, info in bundle.manifest.files.items() if not name.startswith(graph.file)}
    for name in kept:
        shutil.copyfile(source / name, target / name)
    quantise(source / graph.file, target / graph.file)
    files = {**kept, graph.file: file_info(target / graph.file)}
    graphs = replace(bundle.manifest.graphs, llm=replace(graph, precision="int8"))
    manifest = replace(bundle.manifest, graphs=graphs, files=dict(sorted(files.items())))
    (target / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return target
