"""Reference scores computed with one layer in memory are those of the bundle opened whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vprm_demo
from vprm_benchmarks.quality.compare import row_scores
from vprm_optimize import reference
from vprm_runtime import Bundle, EngineError, InputError, StepScorer
from vprm_runtime.datasets import open_rows
from vprm_runtime.datasets.row import Row


def demo_rows(count: int) -> list[Row]:
    return [row for row in open_rows(vprm_demo.best_of_n_rows(count)) if isinstance(row, Row)]


def noted(bundle: Bundle, rows: list[Row], work: Path) -> list[str]:
    recorder = reference.Recorder(bundle, None)
    names = []
    for number, row in enumerate(rows):
        recorder.steps.clear()
        row_scores(StepScorer.open(bundle, engine=recorder), row)
        names.append(f"row-{number}")
        reference.store_steps(work / f"row-{number}.steps.npz", recorder.steps)
    return names


def played(bundle: Bundle, row: Row, name: str, work: Path) -> object:
    player = reference.Player(bundle.manifest, reference.logits_of(work, name))
    return row_scores(StepScorer.open(bundle, engine=player), row)


def test_scores_are_those_of_the_bundle_opened_whole(demo_bundle: Path, tmp_path: Path) -> None:
    bundle, rows = Bundle.open(demo_bundle), demo_rows(4)
    names = noted(bundle, rows, tmp_path)
    reference.run_layers(bundle, tmp_path, names, lambda done, total: None)
    whole = StepScorer.open(bundle, "cpu")
    for row, name in zip(rows, names, strict=True):
        expected = np.concatenate(row_scores(whole, row))
        np.testing.assert_allclose(np.concatenate(played(bundle, row, name, tmp_path)), expected, atol=2e-6)
    assert not list(tmp_path.glob("*.hidden-*"))


def test_an_interrupted_run_goes_on_at_its_layer_and_gives_the_same_bytes(demo_bundle: Path, tmp_path: Path) -> None:
    bundle, rows = Bundle.open(demo_bundle), demo_rows(2)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    names = noted(bundle, rows, tmp_path / "one")
    noted(bundle, rows, tmp_path / "two")
    reference.run_layers(bundle, tmp_path / "one", names, lambda done, total: None)

    class KilledError(Exception):
        pass

    for layer in range(1, bundle.manifest.model.layers):

        def kill(done: int, total: int, layer: int = layer) -> None:
            if done == layer:
                raise KilledError

        with pytest.raises(KilledError):
            reference.run_layers(bundle, tmp_path / "two", names, kill)
    reference.run_layers(bundle, tmp_path / "two", names, lambda done, total: None)
    for name in names:
        for one, other in zip(
            reference.logits_of(tmp_path / "one", name), reference.logits_of(tmp_path / "two", name), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_other_families_too(
    family: str, random_scorer: Callable[[str], StepScorer], random_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from vprm_export import export_bundle

    export_bundle(random_checkpoint(family), tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    row = Row(0, (), "How many?", (["One.", "Two."], ["Three."]))
    names = noted(bundle, [row], tmp_path)
    reference.run_layers(bundle, tmp_path, names, lambda done, total: None)
    expected = np.concatenate(row_scores(random_scorer(family), row))
    np.testing.assert_allclose(np.concatenate(played(bundle, row, names[0], tmp_path)), expected, atol=2e-6)


def test_rows_that_changed_meanwhile_are_noticed(demo_bundle: Path, tmp_path: Path) -> None:
    bundle, (row,) = Bundle.open(demo_bundle), demo_rows(1)
    (name,) = noted(bundle, [row], tmp_path)
    reference.run_layers(bundle, tmp_path, [name], lambda done, total: None)
    longer = Row(row.id, row.images, row.question, tuple([*steps, "One more."] for steps in row.responses))
    with pytest.raises(EngineError, match="rows changed"):
        played(bundle, longer, name, tmp_path)


def test_a_row_that_cannot_be_scored_is_an_error_of_that_row(demo_bundle: Path) -> None:
    recorder = reference.Recorder(Bundle.open(demo_bundle), None)
    with pytest.raises(InputError):
        row_scores(StepScorer.open(demo_bundle, engine=recorder), Row(7, (Path("nowhere.png"),), "Q?", (["A."],)))
