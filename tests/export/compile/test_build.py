"""Engines of the demo PRM built without a device, at every precision and for three generations of devices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from vprm_benchmarks.gpu.synthetic_calibration import write_synthetic_calibration
from vprm_compile.build import NO_FUSED_ATTENTION, build_engines
from vprm_compile.callbacks import BuildLog
from vprm_compile.capability import BuildOptions, check_precision, checked_capability
from vprm_compile.compile_log import compile_failure
from vprm_compile.network import adapted_graph, imported_network, refusal
from vprm_demo import checkpoint_dir
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, BundleError, EngineError, InputError, MissingExtraError, UnsupportedError
from vprm_runtime.bundle.manifest import Precision
from vprm_runtime.cli.main import main
from vprm_runtime.engines.cuda.device import is_device_present
from vprm_runtime.engines.cuda.limits import Limits
from vprm_runtime.engines.cuda.protocol import DeviceFacts
from vprm_runtime.engines.cuda.tensorrt import EngineInfo, engine_directories, inspect_engines
from vprm_runtime.engines.cuda.tensorrt.graph import import_tensorrt, is_installed

needs_rtx = pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="tensorrt-rtx is not installed")
without_device = pytest.mark.skipif(is_device_present(), reason="this machine has a CUDA device")

CAPABILITIES = (80, 89, 120)
EXPECTED_PRODUCTS = {
    "fp16": "half x half",
    "int8": "int8 x int8",
    "w8": "half x int8",
    "w4": "half x int4",
    "fp8": "fp8_e4m3 x fp8_e4m3",
}
# Shapes small enough to build fast; what they are changes no kernel's kind.
PROFILE = "tokens=1:256:512,past=0:512:1024,tiles=1:2:5,scores=1:16:64"


@pytest.fixture(scope="module", params=EXPECTED_PRODUCTS)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo PRM laid out for TensorRT, by precision."""
    folder = tmp_path_factory.mktemp(request.param)
    precision: Precision = request.param
    calibration = None
    if precision in ("int8", "fp8"):
        calibration = write_synthetic_calibration(folder / "calibration.safetensors", checkpoint_dir())
    options = ExportOptions(precision, "fp16", target="tensorrt", calibration=calibration)
    export_bundle(checkpoint_dir(), folder / "bundle", options)
    return Bundle.open(folder / "bundle")


@needs_rtx
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_demo_engines(demo: Bundle, capability: int) -> None:
    precision = demo.manifest.graphs.llm.precision
    options = BuildOptions("tensorrt-rtx", capability, PROFILE)
    if precision == "fp8" and capability < 89:
        with pytest.raises(UnsupportedError, match="is fp8, which sm80 cannot multiply"):
            build_engines(demo, options)
        return
    phases: set[str] = set()
    info = build_engines(demo, options, lambda phase, done, total: phases.add(phase.split(":")[0]))
    directory = demo.path / "engines" / f"tensorrt-rtx-sm{capability}"
    assert EngineInfo.read(directory) == info
    for graph in (info.vision, info.llm):
        assert graph.check.problems == ()
        assert graph.check.fused_attention_nodes == graph.check.attention_nodes > 0
        assert (directory / graph.file).stat().st_size == graph.size_bytes
    layers = demo.manifest.model.layers
    linears = 4 * layers + 1  # in the last layer q stands apart from k and v
    expected = {EXPECTED_PRODUCTS[precision]: linears, "float x float": 1}
    if precision == "w4":  # queries, keys and values have 8 bits
        expected |= {"half x int4": 3 * layers, "half x int8": layers + 1}
    assert info.llm.check.matmuls == expected
    assert Limits.of(info.vision.profiles, info.llm.profiles) == Limits(5, 512, 1024, 512, 64)
    assert info.llm.weights_bytes > 10**6
    assert info.llm.workspace_bytes > 0
    assert phases == {"vision", "llm"}
    assert all(entry["error"] is None for entry in inspect_engines(demo, verify=True))


@needs_rtx
def test_build_command(fp16_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from argparse import ArgumentParser

    from vprm_compile.command import register

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in fp16_bundle.path.iterdir():
        if file.is_file():
            (bundle / file.name).symlink_to(file)
    parser = ArgumentParser()
    register(parser.add_subparsers())
    command = ["build", str(bundle), "--engine", "tensorrt-rtx", "--sm", "89", "--profile", PROFILE]
    args = parser.parse_args([*command, "--json"])
    assert args.run(args) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["engines"][0]["compute_capability"] == 89
    assert [path.name for path in engine_directories(Bundle.open(bundle))] == ["tensorrt-rtx-sm89"]
    assert sorted(path.name for path in (bundle / "engines").iterdir()) == ["tensorrt-rtx-sm89"]  # nothing left behind


def test_a_damaged_bundle_is_not_built(fp16_bundle: Bundle, tmp_path: Path) -> None:
    from argparse import ArgumentParser

    from vprm_compile.command import register

    shutil.copytree(fp16_bundle.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("engines"))
    weights = bytearray((tmp_path / "bundle/llm.onnx.data").read_bytes())
    weights[1000] ^= 1
    (tmp_path / "bundle/llm.onnx.data").write_bytes(weights)
    parser = ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["build", str(tmp_path / "bundle"), "--engine", "tensorrt-rtx", "--sm", "89"])
    with pytest.raises(BundleError, match=r"sha256 differs from the manifest for llm\.onnx\.data"):
        args.run(args)
    assert not (tmp_path / "bundle/engines").exists()


@needs_rtx
def test_what_builds_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark's command, on the demo PRM: a build measured in a process of its own, and one that is refused."""
    sizes = ["--sm", "80", "--precision", "fp16", "fp8", "--profile", PROFILE, "--work", str(tmp_path)]
    assert main(["bench", "builds", *sizes, "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    built, refused = document["builds"]
    assert (built["precision"], built["compute_capability"], built["problems"], built["refused"]) == (
        "fp16",
        80,
        [],
        None,
    )
    assert built["fused_attention"] == "10 of 10"
    assert built["cpu_s"] > 0
    assert built["peak_rss_bytes"] > built["engine_bytes"] > 5 * 10**6
    assert refused["refused"].startswith("llm.onnx is fp8, which sm80 cannot multiply")
    assert refused["engine_bytes"] == 0
    assert [line[:4] for line in shown.err.splitlines() if line.startswith("fp")] == ["fp16", "fp8 "]  # and progress
    assert list(tmp_path.iterdir()) == []


@needs_rtx
@without_device
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (BuildOptions("tensorrt-rtx"), InputError, "there is no CUDA device here to build for: name one, e.g. --sm 80"),
        (BuildOptions("tensorrt-rtx", 90), InputError, "does not build for sm90, only for 75, 80, 86, 89, 120"),
        (BuildOptions("tensorrt-rtx", 89, "slow"), InputError, "unknown profile 'slow'"),
        (BuildOptions("tensorrt-rtx", 89, weights="stripped"), EngineError, "--weights stripped needs a device"),
    ],
)
def test_builds_that_cannot_be(fp16_bundle: Bundle, options: BuildOptions, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        build_engines(fp16_bundle, options)
    assert message in str(error.value)
    assert not (fp16_bundle.path / "engines").exists()


@needs_rtx
def test_a_device_that_is_here_may_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    hopper = SimpleNamespace(facts=DeviceFacts("NVIDIA H100", 90, 1))
    monkeypatch.setattr("vprm_compile.capability.is_device_present", lambda: True)
    monkeypatch.setattr("vprm_compile.capability.CudaDevice", lambda: hopper)
    trt = import_tensorrt("tensorrt-rtx")
    assert checked_capability(trt, BuildOptions("tensorrt-rtx")) == 90
    assert checked_capability(trt, BuildOptions("tensorrt-rtx", 89)) == 89
    with pytest.raises(InputError, match="does not build for sm100"):
        checked_capability(trt, BuildOptions("tensorrt-rtx", 100))


@pytest.mark.skipif(is_installed("tensorrt"), reason="tensorrt is installed")
def test_a_package_that_is_not_installed(fp16_bundle: Bundle) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'vprm\[tensorrt\]'"):
        build_engines(fp16_bundle, BuildOptions("tensorrt", 90))


def test_precisions_that_cannot_be_compiled(random_checkpoint, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    export_bundle(random_checkpoint("internlm2"), tmp_path / "fp32", ExportOptions("fp32"))
    with pytest.raises(UnsupportedError, match=r"vision\.onnx computes in float32, for which TensorRT has no fused"):
        check_precision(Bundle.open(tmp_path / "fp32").manifest.graphs.vision, 89)
    export_bundle(random_checkpoint("internlm2"), tmp_path / "w8", ExportOptions("w8"))
    with pytest.raises(UnsupportedError, match=r"quantised for cpu engines: .*--precision w8 --target tensorrt"):
        check_precision(Bundle.open(tmp_path / "w8").manifest.graphs.llm, 89)


@needs_rtx
def test_a_node_that_cannot_be_imported_is_named(random_checkpoint, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A graph laid out for ONNX Runtime's CPU kernels, whose integers have zero points."""
    export_bundle(random_checkpoint("internlm2"), tmp_path / "int8", ExportOptions("int8", "fp32"))
    path = Bundle.open(tmp_path / "int8").llm_path
    trt = import_tensorrt("tensorrt-rtx")
    log = BuildLog.create(trt)
    with pytest.raises(UnsupportedError, match=r"cannot import llm.onnx: node 'node_QuantizeLinear_\d+' .*zero point"):
        imported_network(trt, trt.Builder(log.logger), log.logger, adapted_graph(path), path)


def test_importer_errors_name_the_node_and_the_way_out() -> None:
    error = SimpleNamespace(
        node_name=lambda: "node_MatMulNBits_7",
        node_operator=lambda: "MatMulNBits",
        desc=lambda: "no importer registered ",
    )
    assert refusal("llm.onnx", [error, error]) == (
        "TensorRT cannot import llm.onnx: node 'node_MatMulNBits_7' (MatMulNBits): no importer registered "
        "(2 such nodes, operators MatMulNBits). What to do: the bundle's graphs are laid out for ONNX Runtime; "
        "export again with  --target tensorrt"
    )
    assert "run  vprm inspect --verify" in refusal("llm.onnx", [])


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("FP8 is unsupported here", "export with --precision int8"),
        ("std::bad_alloc", "build on a larger machine"),
        ("Error at node_MatMul_4 something", "at node_MatMul_4: try another --profile"),
    ],
)
def test_compiler_errors_say_what_to_do(message: str, advice: str) -> None:
    assert advice in compile_failure("llm.onnx", [message])


@needs_rtx
def test_attention_without_a_fused_kernel_is_built_and_reported(
    random_checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    """The compiler refuses float32 attention until it may decompose it, so a build without problems has it fused."""
    monkeypatch.setattr("vprm_compile.build.check_precision", lambda graph, capability: None)
    export_bundle(random_checkpoint("internlm2"), tmp_path / "fp32", ExportOptions("fp32"))
    bundle = Bundle.open(tmp_path / "fp32")
    info = build_engines(bundle, BuildOptions("tensorrt-rtx", 89, PROFILE))
    assert EngineInfo.read(bundle.path / "engines/tensorrt-rtx-sm89") == info
    for graph in (info.vision, info.llm):
        assert graph.check.problems[0] == NO_FUSED_ATTENTION
        assert len(graph.check.problems) == 1 + graph.check.attention_nodes
        assert graph.check.fused_attention_nodes == 0
    assert all(entry["error"] is None for entry in inspect_engines(bundle, verify=True))
