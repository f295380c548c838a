"""Bundles of --precision bf16: scores beside float32's, at every level, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vprm_demo import checkpoint_dir, example
from vprm_export import ExportOptions, export_bundle
from vprm_optimize.recipes import recipe_groups
from vprm_optimize.targets import Target
from vprm_runtime import Bundle, InputError, StepScorer, UnsupportedError, native
from vprm_runtime.cli.main import main as run_command
from vprm_runtime.engines.host.openvino import OpenVinoEngine
from vprm_runtime.errors import EngineError

runs_here = pytest.mark.skipif(native.level() is None, reason="the native library was not built")
BF16 = ExportOptions("bf16", target="cpu-native")
OF_FLOAT32 = 0.02  # largest difference of a step score; the demo's held-out rows need 0.0153 (docs/quantisation.md)
OF_A_LEVEL = 0.02  # attention rounds to bfloat16 at AVX-512 BF16 and AMX only


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bf16") / "bundle"
    export_bundle(checkpoint_dir(), path, BF16)
    return path


def step_scores(bundle: Path, device: str = "cpu") -> NDArray[np.float64]:
    shown = example()
    found = StepScorer.open(bundle, device).score(
        shown.image, shown.question, [*shown.responses, "A right angle.\n\n" * 20 + "So 3."]
    )
    return np.array([step.score for candidate in found.candidates for step in candidate.steps])


@runs_here
def test_scores_are_those_of_float32_within_the_stated_bound(bundle: Path, tmp_path: Path) -> None:
    export_bundle(checkpoint_dir(), tmp_path / "fp32", ExportOptions("fp32"))
    np.testing.assert_allclose(step_scores(bundle), step_scores(tmp_path / "fp32"), rtol=0, atol=OF_FLOAT32)


@runs_here
@pytest.mark.parametrize("level", ["plain", "avx512", "amx"])
def test_every_level_scores(bundle: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    best = step_scores(bundle)
    monkeypatch.setenv("VPRM_NATIVE_LEVEL", level)
    try:
        native.level()
    except EngineError as error:
        pytest.skip(str(error))
    np.testing.assert_allclose(step_scores(bundle), best, rtol=0, atol=OF_A_LEVEL)


@runs_here
@pytest.mark.parametrize("family", ["internlm2", "llama", "qwen2"])
def test_every_family_scores_as_in_float32(
    random_checkpoint: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    """Biases of Qwen2, layer scales of the vision encoder, widths that are no multiple of a panel."""
    found = []
    for options in (BF16, ExportOptions("fp32")):
        path = tmp_path / options.precision
        export_bundle(random_checkpoint(family), path, options)
        scored = StepScorer.open(path, "cpu").score(example().image, "What?", ["a b\n\nc", "d e f"])
        found.append([step.score for candidate in scored.candidates for step in candidate.steps])
    np.testing.assert_allclose(*found, rtol=0, atol=0.05)


@runs_here
def test_packed_equals_one_by_one(bundle: Path) -> None:
    shown = example()
    scorer = StepScorer.open(bundle, "cpu")
    together = scorer.score(shown.image, shown.question, shown.responses)
    for response, candidate in zip(shown.responses, together.candidates, strict=True):
        (alone,) = scorer.score(shown.image, shown.question, [response]).candidates
        np.testing.assert_allclose(
            [step.score for step in candidate.steps], [step.score for step in alone.steps], rtol=0, atol=0.01
        )


@runs_here
def test_openvino_leaves_it_to_onnxruntime(bundle: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'vprm[openvino]'")
    with pytest.raises(EngineError, match="--device cpu"):
        OpenVinoEngine(Bundle.open(bundle))


def test_the_manifest_says_it(bundle: Path) -> None:
    graphs = Bundle.open(bundle).manifest.graphs
    assert (graphs.llm.precision, graphs.vision.precision) == ("bf16", "bf16")
    assert graphs.llm.is_native and graphs.vision.is_native
    assert (bundle / "llm.onnx.data").stat().st_size < 0.52 * 4 * 2_600_000


def test_the_command_takes_the_target_that_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["export", str(checkpoint_dir()), str(tmp_path / "bundle"), "--precision", "bf16"]) == 0
    assert "native operators for x86-64 CPUs" in capsys.readouterr().err
    assert Bundle.open(tmp_path / "bundle").manifest.graphs.llm.is_native


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("part", ["precision", "vision_precision"])
def test_targets_that_cannot_are_refused_with_the_one_that_can(tmp_path: Path, target: str, part: str) -> None:
    options = ExportOptions(**{part: "bf16"}, target=target)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=f"not for target {target}: use  --target cpu-native , or fp16"):
        export_bundle(checkpoint_dir(), tmp_path / "bundle", options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [{"keep_high": 2}, {"calibration": Path("calibration.safetensors")}])
def test_it_takes_no_calibration(tmp_path: Path, more: dict[str, object]) -> None:
    with pytest.raises(InputError, match="are for quantised precisions, not for bf16"):
        export_bundle(
            checkpoint_dir(),
            tmp_path / "bundle",
            ExportOptions("bf16", target="cpu-native", **more),  # type: ignore[arg-type]
        )


def test_optimize_tries_it_where_bfloat16_is_fast() -> None:
    def names(has_bf16: bool, goal: str = "latency", small: bool = False) -> list[str]:
        target = Target("cpu-amx", "a CPU", "cpu-native", False, has_bf16)
        return [one.name for group in recipe_groups(target, goal, 8, small) for one in group]  # type: ignore[arg-type]

    of_8b = "int8-vision-int8-native int8-vision-bf16-native int8-native w8-native bf16-native fp32"
    assert names(True) == of_8b.split()
    assert not [name for name in names(False, small=True) if "bf16" in name]
    assert names(True, "size").index("bf16-native") < names(True, "size").index("fp16")
    assert len(set(names(True, small=True))) == len(names(True, small=True))
