"""The same model through other quantisers, wrapped as a bundle so that it is scored like ours.

| peer                             | activations                            | weights, int8               |
|----------------------------------|----------------------------------------|-----------------------------|
| onnxruntime.quantization dynamic | uint8, a scale per tensor, at run time | a scale per tensor, channel |
| onnxruntime.quantization static  | uint8, one calibrated scale            | a scale per channel         |
| nvidia-modelopt int8             | int8, one calibrated scale             | a scale per channel         |

nvidia-modelopt is no dependency: its ONNX half wants packages that pull in CUDA. docs/quantisation.md says how to
install what it needs for this.
"""

import importlib.util
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from numpy.typing import NDArray

from vprm_calibration.sequences import SequenceLimits, feeds_of_rows, with_context
from vprm_runtime.bundle.bundle import Bundle, file_info
from vprm_runtime.bundle.manifest import MANIFEST_NAME
from vprm_runtime.datasets import RowSource
from vprm_runtime.scorer import StepScorer

Feeds = Mapping[str, NDArray[Any]]  # an LLM graph's inputs, by name
Quantize = Callable[[Path, Path, Sequence[Feeds]], None]  # (float model, where to write, inputs to calibrate with)


def calibration_feeds(bundle: Bundle, rows: RowSource, limits: SequenceLimits) -> list[Feeds]:
    """The sequences that `vprm calibrate` would run, as inputs of the whole LLM graph."""
    model = bundle.manifest.model
    sequences: Iterator[dict[str, NDArray[Any]]] = feeds_of_rows(StepScorer.open(bundle), rows, limits)
    return [with_context(sequence, model.layers, model.kv_width) for sequence in sequences]


@dataclass
class FeedsReader:
    """Feeds one by one, as onnxruntime's CalibrationDataReader and modelopt's."""

    feeds: Sequence[Feeds]
    done: int = 0

    def get_next(self) -> Feeds | None:
        """The next inputs, None after the last."""
        self.done += 1
        return self.feeds[self.done - 1] if self.done <= len(self.feeds) else None

    def get_first(self) -> Feeds:
        """The first inputs."""
        return self.feeds[0]

    def rewind(self) -> None:
        """Begin again."""
        self.done = 0


def ort_dynamic(source: Path, target: Path, feeds: Sequence[Feeds] = (), *, per_channel: bool = False) -> None:
    """onnxruntime's quantize_dynamic with int8 weights, a scale per tensor or channel."""
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


def ort_static(source: Path, target: Path, feeds: Sequence[Feeds]) -> None:
    """onnxruntime's quantize_static: Q/DQ, one range per tensor from all feeds, weights a scale per channel."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            source,
            target,
            FeedsReader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def has_modelopt() -> bool:
    """Whether nvidia-modelopt is installed."""
    return importlib.util.find_spec("modelopt") is not None


def modelopt_int8(source: Path, target: Path, feeds: Sequence[Feeds]) -> None:
    """nvidia-modelopt's ONNX int8 quantisation, calibration "max", on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from modelopt.onnx.quantization import quantize

        quantize(
            str(source),
            quantize_mode="int8",
            calibration_data_reader=FeedsReader(feeds),
            calibration_method="max",
            calibration_eps=["cpu"],
            op_types_to_quantize=["MatMul"],
            high_precision_dtype="fp32",
            output_path=str(target),
            log_level="WARNING",
        )


def peer_bundle(source: Path, target: Path, quantize: Quantize, feeds: Sequence[Feeds] = ()) -> Path:
    """A copy of an fp32 bundle whose LLM graph went through `quantize`."""
    bundle = Bundle.open(source)
    graph = bundle.manifest.graphs.llm
    target.mkdir(parents=True)
    kept = {name: info for name, info in bundle.manifest.files.items() if name not in graph.files}
    for name in kept:
        shutil.copyfile(source / name, target / name)
    with TemporaryDirectory(prefix="vprm-peer-") as directory:  # peers write beside what they read, and into it
        work = Path(directory)
        (work / "made").mkdir()
        for name in bundle.manifest.files.keys() - kept.keys():
            shutil.copyfile(source / name, work / name)
        quantize(work / graph.file, work / "made" / graph.file, feeds)
        _save_with_data_beside(work / "made" / graph.file, target / graph.file)
    files = {**kept, **{name: file_info(target / name) for name in graph.files}}
    graphs = replace(bundle.manifest.graphs, llm=replace(graph, precision="int8"))
    manifest = replace(bundle.manifest, graphs=graphs, files=dict(sorted(files.items())))
    (target / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    return target


def _save_with_data_beside(source: Path, target: Path) -> None:
    """A graph with all its weights in one file beside it, as bundles have them; peers may leave them inside."""
    model = onnx.load(source)
    onnx.save_model(model, target, save_as_external_data=True, location=f"{target.name}.data")
