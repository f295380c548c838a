"""Bundles of target cpu-native: what is refused, and scores beside the standard operators'."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from vprm.__main__ import main
from vprm_demo import checkpoint_dir, example
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import Bundle, EngineError, InputError, StepScorer, UnsupportedError, native
from vprm_runtime.cli.main import main as run_command
from vprm_runtime.engines.cuda import onnxruntime as ort_cuda
from vprm_runtime.native import Level

runs_here = pytest.mark.skipif(native.level() is None, reason="the native library was not built")


def demo(tmp_path_factory: pytest.TempPathFactory, target: str) -> Path:
    bundle = tmp_path_factory.mktemp(target) / "bundle"
    options = ExportOptions("int8", "int8", target=target)  # type: ignore[arg-type]
    export_bundle(checkpoint_dir(), bundle, options)
    return bundle


@pytest.fixture(scope="module")
def native_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(tmp_path_factory, "cpu-native")


@pytest.fixture(scope="module")
def standard_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(tmp_path_factory, "cpu")


@runs_here
def test_scores_are_those_of_the_standard_operators_within_bfloat16(native_bundle: Path, standard_bundle: Path) -> None:
    shown = example()
    scorer, standard = StepScorer.open(native_bundle, "cpu"), StepScorer.open(standard_bundle, "cpu")
    assert f"native operators at {native.description()}" in scorer.engine.description
    responses = [*shown.responses, "A right angle.\n\n" * 30 + "So 3."]
    found = scorer.score(shown.image, shown.question, responses)
    wanted = standard.score(shown.image, shown.question, responses)
    for ours, theirs in zip(found.candidates, wanted.candidates, strict=True):
        assert ours.error is None
        np.testing.assert_allclose(
            [step.score for step in ours.steps], [step.score for step in theirs.steps], rtol=0, atol=0.05
        )
    assert found.best == wanted.best


@runs_here
def test_packed_equals_one_by_one(native_bundle: Path) -> None:
    shown = example()
    scorer = StepScorer.open(native_bundle, "cpu")
    together = scorer.score(shown.image, shown.question, shown.responses)
    for response, candidate in zip(shown.responses, together.candidates, strict=True):
        (alone,) = scorer.score(shown.image, shown.question, [response]).candidates
        np.testing.assert_allclose(
            [step.score for step in candidate.steps], [step.score for step in alone.steps], rtol=0, atol=0.02
        )


@runs_here
def test_steps_of_a_session_are_those_of_the_whole(native_bundle: Path) -> None:
    shown = example()
    session = StepScorer.open(native_bundle, "cpu").session(shown.image, shown.question)
    (whole,) = session.score(shown.responses[:1]).candidates
    steps = shown.responses[0].split("\n\n")
    fork = session.fork()
    one_by_one = [session.append(step).score for step in steps]
    np.testing.assert_allclose(one_by_one, [step.score for step in whole.steps], rtol=0, atol=0.02)
    alternatives = fork.score_next([steps[0], shown.responses[1]])
    np.testing.assert_allclose(alternatives.candidates[0].score, whole.steps[0].score, rtol=0, atol=0.02)


@runs_here
@pytest.mark.parametrize("family", ["internlm2", "llama", "qwen2"])
@pytest.mark.parametrize(("precision", "vision"), [("int8", "int8"), ("w8", "w8"), ("w4", None)])
def test_every_family_and_recipe_scores_as_the_standard_operators_do(
    random_checkpoint: Callable[[str], Path], tmp_path: Path, family: str, precision: str, vision: str | None
) -> None:
    """Biases of Qwen2, GELU and layer scales of the vision encoder, widths that are no multiple of a panel."""
    found = []
    for target in ("cpu", "cpu-native"):
        options = ExportOptions(precision, vision, target=target)  # type: ignore[arg-type]
        export_bundle(random_checkpoint(family), tmp_path / target, options)
        scored = StepScorer.open(tmp_path / target, "cpu").score(example().image, "What?", ["a b\n\nc", "d e f"])
        found.append([step.score for candidate in scored.candidates for step in candidate.steps])
    np.testing.assert_allclose(*found, rtol=0, atol=0.02)


@runs_here
def test_a_bundle_of_another_layout_is_refused_with_the_command_that_mends_it(
    native_bundle: Path, tmp_path: Path
) -> None:
    model = ir.load(native_bundle / "llm.onnx")
    for node in model.graph:
        if node.op_type == "Linear":
            node.attributes["layout"] = ir.AttrInt64("layout", 99)
    copied = tmp_path / "llm.onnx"
    ir.save(model, copied)
    shutil.copy(native_bundle / "llm.onnx.data", tmp_path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(native.library_path()))
    with pytest.raises(Exception, match="another version of this package: export it again with"):
        onnxruntime.InferenceSession(str(copied), options, providers=["CPUExecutionProvider"])


@runs_here
def test_inspect_says_what_it_runs_at(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VPRM_NATIVE_LEVEL", "plain")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["vprm", "inspect", str(native_bundle)])
    assert main() == 0
    assert "fast from AVX-512 VNNI on; here: PLAIN (slow" in capsys.readouterr().out


@runs_here
def test_export_says_what_the_bundle_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--precision", "int8", "--target", "cpu-native"]
    assert run_command(["export", str(checkpoint_dir()), str(tmp_path / "bundle"), *options]) == 0
    assert f"for x86-64 CPUs, fast from AVX-512 VNNI on; here: {native.description()}" in capsys.readouterr().err


def test_floating_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp32 promises more than the bfloat16 attention"):
        export_bundle(checkpoint_dir(), tmp_path / "bundle", ExportOptions("fp32", target="cpu-native"))
    assert not list(tmp_path.iterdir())


def test_other_engines_refuse_the_bundle(native_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_cuda, "PROVIDER", "CPUExecutionProvider")
    with pytest.raises(UnsupportedError, match="target cpu-native"):
        ort_cuda.open_ort_cuda(Bundle.open(native_bundle))


def test_without_the_library_the_error_says_what_to_do(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "_LIBRARY", tmp_path / "missing.so")
    assert native.level() is None
    with pytest.raises(EngineError, match=r"without its native part.*--target cpu"):
        StepScorer.open(native_bundle, "cpu")


@runs_here
def test_a_lower_level_is_chosen_by_the_environment_and_shown(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPRM_NATIVE_LEVEL", "plain")
    scorer = StepScorer.open(native_bundle, "cpu")
    assert "native operators at PLAIN (slow" in scorer.engine.description
    shown = example()
    slow = scorer.score(shown.image, shown.question, shown.responses[:1]).candidates[0]
    monkeypatch.delenv("VPRM_NATIVE_LEVEL")
    best = StepScorer.open(native_bundle, "cpu").score(shown.image, shown.question, shown.responses[:1]).candidates[0]
    # Linears give the same bits at every level; attention rounds to bfloat16 above PLAIN.
    np.testing.assert_allclose(
        [step.score for step in slow.steps], [step.score for step in best.steps], rtol=0, atol=0.02
    )


@runs_here
@pytest.mark.parametrize(
    ("chosen", "message"), [("sse", "must be plain, avx512 or amx"), ("amx", "a level that this CPU does not have")]
)
def test_an_impossible_level_is_refused(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, message: str
) -> None:
    if chosen == "amx" and native.level() is Level.AMX:
        pytest.skip("this CPU has AMX")
    monkeypatch.setenv("VPRM_NATIVE_LEVEL", chosen)
    with pytest.raises(EngineError, match=message):
        StepScorer.open(native_bundle, "cpu")


@runs_here
@pytest.mark.parametrize(
    ("shapes", "heads", "message"),
    [
        ({"q": (2, 3, 8), "k": (1, 3, 8), "v": (1, 3, 8)}, 2, "keys and values do not fit"),
        ({"q": (3, 8), "k": (3, 4), "v": (3, 8)}, 2, "keys and values do not fit"),
        ({"q": (3, 9), "k": (3, 9), "v": (3, 9)}, 2, "heads times head_dim"),
        ({"q": (3, 8), "k": (3, 8), "v": (3, 8), "pk": (2, 8), "pv": (1, 8)}, 2, "cached keys and values"),
        ({"q": (3, 8), "k": (3, 8), "v": (3, 8), "pk": (2, 8), "pv": (2, 8), "m": (3, 4)}, 2, "the mask needs a row"),
        ({"q": (8,), "k": (8,), "v": (8,)}, 2, "2 or 3 dimensions"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], heads: int, message: str) -> None:
    session = operator_session(tuple(shapes), [len(shape) for shape in shapes.values()], heads)
    feeds = {name: np.zeros(shape, np.bool_ if name == "m" else np.float32) for name, shape in shapes.items()}
    with pytest.raises(Exception, match=message):
        session.run(None, feeds)


@runs_here
def test_a_batch_is_several_sequences() -> None:
    session = operator_session(("q", "k", "v"), [3, 3, 3], 2)
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((3, 20, 8), np.float32) for _ in range(3))
    (together,) = session.run(None, {"q": q, "k": k, "v": v})
    for i in range(3):
        (alone,) = session.run(None, {"q": q[i : i + 1], "k": k[i : i + 1], "v": v[i : i + 1]})
        np.testing.assert_array_equal(together[i : i + 1], alone)


def operator_session(names: tuple[str, ...], ranks: list[int], heads: int) -> onnxruntime.InferenceSession:
    """A graph of the operator alone."""
    values = [
        ir.Value(
            name=name,
            shape=ir.Shape([None] * rank),
            type=ir.TensorType(ir.DataType.BOOL if name == "m" else ir.DataType.FLOAT),
        )
        for name, rank in zip(names, ranks, strict=True)
    ]
    node = ir.node("Attention", values, {"heads": heads, "kv_heads": heads}, domain=native.DOMAIN)
    node.outputs[0].name = "result"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 24, native.DOMAIN: 1}, name="operator")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(native.library_path()))
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=11)).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
