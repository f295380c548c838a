"""Figures of a comparison against numbers worked out by hand, budgets, and the report's forms."""

from __future__ import annotations

import pytest

from vprm_benchmarks.quality.budget import BUDGETS, check
from vprm_benchmarks.quality.compare import ComparedRow
from vprm_benchmarks.quality.figures import figures_of
from vprm_benchmarks.quality.report import QualityReport

ROWS = [
    ComparedRow("a", ((0.9, 0.2),), ((0.9, 0.6),), ((1, -1),)),
    ComparedRow("b", ((0.6, 0.4, 0.95),), ((0.6, 0.4, 0.75),), ((1, 0, 1),)),
    ComparedRow("c", ((0.8,), (0.5,)), ((0.4,), (0.5,)), None),
    ComparedRow("d", ((0.30,), (0.31,)), ((0.32,), (0.31,)), None),
]


def test_figures_of_a_small_comparison() -> None:
    figures = figures_of(ROWS)
    assert figures.errors.steps == 9
    assert figures.errors.mean == pytest.approx((0.4 + 0.2 + 0.4 + 0.02) / 9)
    assert figures.errors.max == pytest.approx(0.4)
    by_name = {figure.name: figure for figure in figures.labels}
    # At 0.5: right, right, right and wrong as labelled before; afterwards the wrong step is taken for right.
    assert by_name["macro F1 at 0.5"].reference == 1.0
    assert by_name["macro F1 at 0.5"].candidate == pytest.approx((2 * 3 / 7 + 0) / 2)
    # At 0.8: 0.9 and 0.95 above of three right steps; afterwards only 0.9.
    assert by_name["macro F1 at 0.8"].reference == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert by_name["macro F1 at 0.8"].candidate == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert by_name["AUC"].reference == 1.0
    assert by_name["AUC"].candidate == pytest.approx((1 + 0.5 + 1) / 3)  # 0.6 against 0.6 counts half
    assert figures.choices.choices == 2
    assert figures.choices.flip_margins == pytest.approx((0.3, 0.01))
    assert figures.choices.flips_outside == 0.5


def test_rows_without_labels_or_choices_leave_those_figures_out() -> None:
    figures = figures_of([ComparedRow(0, ((0.5,),), ((0.5,),), None)])
    assert figures.labels == () and figures.f1_change is None and figures.choices.choices == 0
    assert [c.name for c in check(figures, BUDGETS["int8"])] == ["mean step-score error"]


def test_report_says_what_is_beyond_the_budget() -> None:
    figures = figures_of(ROWS)
    checks = check(figures, BUDGETS["int8"])
    report = QualityReport("<b>", "int8", "ref", 4, figures, checks, (0.01, 0.02), ("layers.0.down",))
    assert not report.passed
    document = report.to_dict()
    assert document["passed"] is False and document["layer_key_error"] == [0.01, 0.02]
    assert [item["passed"] for item in document["budget"]] == [False, False, False]
    page = report.to_html()
    assert "beyond the budget" in page and "&lt;b&gt;" in page and "<b>" not in page and "<svg" in page
    assert "layers.0.down" in page
