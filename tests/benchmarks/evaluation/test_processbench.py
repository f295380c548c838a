"""The step evaluation, against numbers worked out by hand and against brute force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vprm_benchmarks.evaluation.metrics import (
    Counts,
    FirstErrors,
    Steps,
    auc,
    best_threshold,
    bootstrap_auc,
    bootstrap_macro_f1,
    calibration,
    counts,
    first_errors,
    macro_f1_curve,
)
from vprm_benchmarks.evaluation.process_result import ProcessBench
from vprm_benchmarks.evaluation.processbench import ProcessBenchOptions, evaluate_process
from vprm_benchmarks.evaluation.scored import DataFile, ScoredRows, read_scored
from vprm_runtime import InputError

# (source, policy model, labels, scores): scores on the thresholds themselves, neutral steps between others, a response
# of neutral steps only, one of a single step; then a row that could not be read, a response that could not be scored,
# and one without labels.
ROWS: list[tuple[str, str, list[int] | None, list[float] | str]] = [
    ("WeMath", "P1", [1, 1, -1], [0.9, 0.8, 0.3]),
    ("WeMath", "P1", [1, 0, -1], [0.6, 0.1, 0.7]),
    ("WeMath", "P2", [1], [0.5]),
    ("DynaMath", "P2", [-1], [0.5]),
    ("DynaMath", "P1", [0, 0], [0.9, 0.1]),
    ("DynaMath", "P1", [-1, -1, 1], [0.2, 0.85, 0.85]),
    ("DynaMath", "P2", [1, 1], [1.0, 0.95]),
    ("MMMU_DEV_VAL", "P1", [1, -1, 1], [0.81, 0.0, 0.79]),
    ("MMMU_DEV_VAL", "P2", [-1, 1], [0.8, 0.86]),
    ("MMMU_DEV_VAL", "P1", [1], "row"),
    ("MMMU_DEV_VAL", "P2", [-1], "response"),
    ("WeMath", "P1", None, [0.4]),
]


@pytest.fixture
def scored(tmp_path: Path) -> ScoredRows:
    """The twelve rows and their scores, written as files and read back."""
    data, scores = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    with data.open("w") as data_file, scores.open("w") as score_file:
        for number, (source, policy, labels, values) in enumerate(ROWS):
            texts = [f"step {n}" for n in range(len(labels or [0]))]
            response = {"steps": texts, "process_correctness": labels}
            row = {"question": f"Q{number}", "response": response, "policy_model": policy, "data_source": source}
            data_file.write(json.dumps(row) + "\n")
            score_file.write(json.dumps(_document(number, texts, values)) + "\n")
    return read_scored(DataFile(data), scores)


def _document(number: int, texts: list[str], values: list[float] | str) -> dict[str, Any]:
    if values == "row":
        return {"id": number, "row": number, "error": "no image file"}
    scored = [] if isinstance(values, str) else [{"text": t, "score": s} for t, s in zip(texts, values, strict=True)]
    error = "too long" if isinstance(values, str) else None
    result = {"index": 0, "score": None, "steps": scored, "error": error}
    return {"id": number, "row": number, "tiles": [], "results": [result], "best": None}


@pytest.fixture
def bench(scored: ScoredRows) -> ProcessBench:
    """Their evaluation."""
    return evaluate_process(scored, ProcessBenchOptions(bootstrap=200))


def test_twelve_rows_by_hand(bench: ProcessBench) -> None:
    """Counts at every threshold, as counted on paper; a score equal to the threshold is not above it."""
    assert (bench.samples, bench.right, bench.wrong, bench.neutral) == (9, 10, 7, 3)
    assert [item.threshold for item in bench.thresholds] == [0.5, 0.8, 0.85]
    assert [item.pooled for item in bench.thresholds] == [
        Counts(tp=9, tn=4, fp=3, fn=1),
        Counts(tp=6, tn=6, fp=1, fn=4),
        Counts(tp=4, tn=7, fp=0, fn=6),
    ]
    assert [item.pooled.macro_f1 for item in bench.thresholds] == pytest.approx(
        [(18 / 22 + 8 / 12) / 2, 12 / 17, (8 / 14 + 14 / 20) / 2]
    )
    assert bench.auc == pytest.approx(58.5 / 70)


def test_sources_and_policy_models_by_hand(bench: ProcessBench) -> None:
    """Each group's counts at 0.5, and the step-weighted mean of the sources."""
    assert {group.name: group.counts[0] for group in bench.sources} == {
        "WeMath": Counts(3, 1, 1, 1),
        "DynaMath": Counts(3, 2, 1, 0),
        "MMMU_DEV_VAL": Counts(3, 1, 1, 0),
    }
    assert {group.name: group.counts[0] for group in bench.policies} == {
        "P1": Counts(6, 3, 2, 0),
        "P2": Counts(3, 1, 1, 1),
    }
    assert [(group.name, group.samples, group.steps) for group in bench.sources] == [
        ("DynaMath", 4, 6),
        ("MMMU_DEV_VAL", 2, 5),
        ("WeMath", 3, 6),
    ]
    by_hand = (6 * (6 / 7 + 4 / 5) / 2 + 5 * (6 / 7 + 2 / 3) / 2 + 6 * (6 / 8 + 2 / 4) / 2) / 17
    assert bench.thresholds[0].step_weighted_macro_f1 == pytest.approx(by_hand)


def test_first_errors_by_hand(bench: ProcessBench) -> None:
    """Six responses with an error, four found where it is; two without, one cleared; the neutral one does not count."""
    assert bench.thresholds[0].first_errors == FirstErrors(erroneous=6, found=4, sound=2, cleared=1)
    assert bench.thresholds[0].first_errors.f1 == pytest.approx(4 / 7)


def test_rows_left_out_are_listed_and_never_scored_zero(bench: ProcessBench) -> None:
    """A missing image, a response without scores, one without labels: each with its reason."""
    assert [(item.id, item.reason) for item in bench.left_out] == [
        (9, "no image file"),
        (10, "response 0: too long"),
        (11, "response 0: it has no label for each of its steps"),
    ]
    assert bench.to_json()["left_out"]["count"] == 3


def test_document(bench: ProcessBench) -> None:
    """Plain JSON; published figures only where the data is the real benchmark."""
    document = json.loads(json.dumps(bench.to_json(), allow_nan=False))
    assert document["thresholds"][0]["pooled"]["macro_f1"] == pytest.approx(0.742424, abs=1e-6)
    assert document["thresholds"][1]["sources"]["WeMath"]["tp"] == 1
    assert [item["model"] for item in document["published"]] == ["VisualPRM-8B", "GPT-4o", "InternVL2.5-8B"]
    assert document["published"][0]["sources"]["MMMU_DEV_VAL"] == 58.5
    assert len(document["curve"]) == 101
    interval = document["thresholds"][0]["pooled"]["interval_95"]
    assert 0 < interval["low"] < 0.742424 < interval["high"] <= 1


def test_other_data_has_no_published_figures(scored: ScoredRows) -> None:
    """Sources that the benchmark does not have."""
    renamed = [
        type(row)(**{**vars(row), "labels": {**row.labels, "data_source": f"my {row.source}"}}) for row in scored.rows
    ]
    assert evaluate_process(ScoredRows(tuple(renamed), ())).published == ()


def test_the_best_threshold_is_chosen_on_one_half_and_reported_on_the_other(scored: ScoredRows) -> None:
    """Both halves together are all samples; responses to one question are never in both."""
    held_out = evaluate_process(scored).held_out
    assert held_out is not None
    assert held_out.chosen_on_samples + held_out.samples == 9
    assert held_out.counts.steps < 17


def test_nothing_labelled_and_bad_thresholds() -> None:
    """Errors that say what to give."""
    with pytest.raises(InputError, match="process_correctness"):
        evaluate_process(ScoredRows((), ()))
    with pytest.raises(InputError, match="from 0 to 1"):
        ProcessBenchOptions(thresholds=(1.5,))


@st.composite
def step_sets(draw: st.DrawFn) -> Steps:
    """Up to 30 steps in rows, scores on a coarse grid so that there are ties."""
    size = draw(st.integers(1, 30))
    labels = draw(st.lists(st.sampled_from([1, 0, -1]), min_size=size, max_size=size))
    scores = draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))
    rows = sorted(draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)))
    return Steps(np.array(labels, np.int64), np.array(scores) / 8, np.array(rows, np.int64))


@settings(max_examples=60, deadline=None)
@given(step_sets())
def test_against_brute_force(steps: Steps) -> None:
    """AUC over all pairs, the curve at every threshold, the best threshold, first errors in a loop."""
    right, wrong = steps.scores[steps.labels == 1], steps.scores[steps.labels == -1]
    pairs = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    assert auc(steps) == (pytest.approx(np.mean(pairs)) if pairs else None)
    grid = np.arange(-1, 18) / 16
    curve = macro_f1_curve(steps, grid)
    assert curve == pytest.approx([counts(steps, threshold).macro_f1 for threshold in grid])
    assert counts(steps, best_threshold(steps)).macro_f1 >= curve[grid >= 0].max() - 1e-12
    found = erroneous = cleared = sound = 0
    for row in np.unique(steps.rows):
        inside = (steps.rows == row) & (steps.labels != 0)
        labels, called = list(steps.labels[inside]), [1 if s > 0.5 else -1 for s in steps.scores[inside]]
        if -1 in labels:
            erroneous += 1
            found += -1 in called and called.index(-1) == labels.index(-1)
        elif labels:
            sound += 1
            cleared += -1 not in called
    assert first_errors(steps, 0.5) == FirstErrors(erroneous, found, sound, cleared)


def test_best_threshold_may_be_the_highest_score() -> None:
    """Where every step is wrong, calling all of them wrong is best."""
    steps = Steps(np.array([-1, -1]), np.array([0.25, 0.75]), np.array([0, 1]))
    assert best_threshold(steps) == 0.75


def test_intervals_and_calibration() -> None:
    """A calibrated judge has no calibration error; intervals hold the figure, narrow with rows, and repeat."""
    rng = np.random.default_rng(5)
    scores = rng.random(20_000)
    labels = np.where(rng.random(20_000) < scores, 1, -1)
    steps = Steps(labels, scores, np.arange(20_000) // 5)
    bins, error = calibration(steps)
    assert error is not None and error < 0.02
    assert sum(item.steps for item in bins) == 20_000
    interval = bootstrap_macro_f1(steps, 0.5, 100)
    assert interval.low < counts(steps, 0.5).macro_f1 < interval.high < interval.low + 0.03
    assert bootstrap_macro_f1(steps, 0.5, 100) == interval
    area, few = bootstrap_auc(steps, 20), bootstrap_auc(steps.select(steps.rows < 40), 20)
    point = auc(steps)
    assert area is not None and few is not None and point is not None
    assert area.low < point < area.high
    assert area.high - area.low < few.high - few.low
