"""The plan for VisualPRM-8B: what it says of a machine of 24 GB of memory and 80 GB of disk, without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vprm_demo
from vprm_export.architecture import Architecture
from vprm_optimize import plan as planning
from vprm_optimize.estimate import Estimator, ModelSize, Rates, RowCost
from vprm_optimize.plan import Request, disk_needed, make_plan
from vprm_optimize.recipes import Recipe
from vprm_runtime.errors import InputError
from vprm_runtime.machine import Machine

DATA = Path(__file__).parents[2] / "data" / "visualprm_8b"
SERVER = Machine("Linux", "x86_64", "CPU", 2, ("avx512_vnni",), 24 << 30, ())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its configuration and headers; 16 GB of weights that take no disk."""
    folder = tmp_path_factory.mktemp("8b")
    (folder / "config.json").write_text((DATA / "config.json").read_text("utf-8"), "utf-8")
    header, end = {}, 0
    for name, shape in json.loads((DATA / "tensor_shapes.json").read_text("utf-8")).items():
        size = 2 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
    return folder


@pytest.fixture(autouse=True)
def _of_this_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: 22 << 30)
    monkeypatch.setattr(planning, "free_disk_bytes", lambda path: 64_000_000_000)
    monkeypatch.setattr(planning, "measure_rates", lambda folder: Rates(1.75e11, 1e9))


def request(checkpoint: Path, tmp_path: Path, **options: object) -> Request:
    rows = vprm_demo.best_of_n_rows(40, n_responses=8)
    return Request(checkpoint, tmp_path / "bundle", data=(rows,), **options)  # type: ignore[arg-type]


def test_it_fits_and_no_stage_holds_the_model_in_floating_point(checkpoint: Path, tmp_path: Path) -> None:
    plan = make_plan(request(checkpoint, tmp_path), SERVER)
    assert not plan.is_small
    assert all(len(group) == 1 for group in plan.groups)  # one after the other: a bundle has 9 GB
    assert disk_needed(plan) < 40_000_000_000  # the reference in float32; it is gone before the first recipe
    by_name = {stage.name: stage for stage in plan.stages}
    for name in ("calibrate", "reference scores"):
        assert by_name[name].memory_bytes < 16 << 30
    assert [recipe.precision for recipe, _ in plan.left_out] == ["fp32"]
    assert "GB of memory" in plan.left_out[0][1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rates", "took"),
    [
        (Rates(2.585e11, 8.23e8), (36, 66, 81, 127, 28, 52)),  # the checkpoint had just been written
        (Rates(2.554e11, 1e9), (56, 65, 91, 131, 29, 52)),  # it had to be read from the disk
    ],
)
def test_estimates_are_those_of_measured_runs(rates: Rates, took: tuple[float, ...]) -> None:
    """Eight rows of one tile and three steps on two idle AVX-512 cores (docs/optimize.md, "At 8 B")."""
    config = json.loads((DATA / "config.json").read_text("utf-8"))
    estimator = Estimator(ModelSize.of(Architecture.from_config(config, DATA)), rates, 2)
    cost, fp32, int8 = RowCost(1, 361, 72, 1), Recipe("fp32", "fp32"), Recipe("int8", "int8", "cpu-native")
    estimated = (
        estimator.export_s(fp32), estimator.export_s(int8), estimator.calibrate_s(2, cost),
        estimator.reference_s(6, cost, 6), estimator.judge_s(6, cost, int8), estimator.time_s(int8, 8),
    )  # fmt: skip
    assert estimated == pytest.approx(took, rel=0.3)


def test_a_card_without_room_for_float16_gets_eight_bits_alone(checkpoint: Path, tmp_path: Path) -> None:
    plan = make_plan(request(checkpoint, tmp_path, target="rtx-40"), SERVER)
    assert [recipe.precision for recipe in plan.recipes] == ["fp8", "int8", "w8"]
    ((recipe, why),) = plan.left_out
    assert recipe.precision == "fp16" and "a GeForce RTX 40 has 16 GB" in why
    judging = next(stage for stage in plan.stages if stage.name == "judge int8")
    assert 14e9 < judging.memory_bytes < 18e9  # `vprm export --target tensorrt`'s weights, opened on the CPU


def test_rows_are_as_many_as_an_hour_allows(checkpoint: Path, tmp_path: Path) -> None:
    plan = make_plan(request(checkpoint, tmp_path), SERVER)
    assert 16 <= plan.judging_rows <= 30
    fewer = make_plan(request(checkpoint, tmp_path, max_rows=8), SERVER)
    assert fewer.judging_rows == 8


def test_too_little_disk_or_memory_is_said_with_figures(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "free_disk_bytes", lambda path: 10_000_000_000)
    with pytest.raises(InputError, match=r"10 GB free, the run needs about 3\d GB, .*export fp32 \(reference\)"):
        make_plan(request(checkpoint, tmp_path), SERVER)
    monkeypatch.setattr(planning, "free_disk_bytes", lambda path: 64_000_000_000)
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: 1 << 30)
    with pytest.raises(InputError, match="memory"):
        make_plan(request(checkpoint, tmp_path), SERVER)
