"""The page of a VisualProcessBench evaluation: what `vprm eval processbench --html` writes."""

from __future__ import annotations

from collections.abc import Sequence

from vprm_benchmarks.evaluation.metrics import ratio
from vprm_benchmarks.evaluation.page_parts import (
    FOOTER,
    PageContext,
    answer_of,
    images_of,
    interval_note,
    left_out_table,
    most_telling,
    number,
    percent,
    steps_of,
)
from vprm_benchmarks.evaluation.process_result import Group, ProcessBench
from vprm_benchmarks.evaluation.processbench import Sample
from vprm_report import (
    COLOURS,
    Candidate,
    Card,
    Chart,
    Page,
    PageImage,
    RowView,
    Series,
    Table,
    line_chart,
    percent_axis,
    reliability_chart,
)
from vprm_runtime.execution.aggregate import aggregate_scores


def process_page(bench: ProcessBench, samples: Sequence[Sample], context: PageContext) -> Page:
    """The page of a VisualProcessBench evaluation; wrong calls are those at the first threshold."""
    first = bench.thresholds[0]
    shown = most_telling(samples, lambda sample: _severity(sample, first.threshold), context.max_rows)
    images = images_of(context, [sample.row.number for sample in shown])
    cards = (
        Card(
            "Macro F1, pooled", percent(first.pooled.macro_f1), interval_note(first.interval.low, first.interval.high)
        ),
        Card("Macro F1, step-weighted", percent(first.step_weighted_macro_f1), "mean over sources"),
        Card("AUC", number(bench.auc), "right step above wrong step"),
        Card("First error found", percent(ratio(first.first_errors.found, first.first_errors.erroneous)), "exactly"),
        Card("Responses", f"{bench.samples:,}", f"{len(bench.left_out)} left out"),
        Card("Steps", f"{bench.right + bench.wrong:,}", f"{bench.right:,} right, {bench.wrong:,} wrong"),
    )
    return Page(
        title="VisualProcessBench: step verdicts",
        subtitle=f"{context.subtitle} · threshold {first.threshold:g}",
        cards=cards,
        charts=_process_charts(bench),
        tables=_process_tables(bench),
        rows=tuple(_process_row(sample, first.threshold, images.get(sample.row.number, ())) for sample in shown),
        rows_in_all=len(samples),
        rows_note="An outlined step is one that the model calls wrongly.",
        footer=FOOTER,
    )


def _process_charts(bench: ProcessBench) -> tuple[Chart, ...]:
    curve = Series("macro F1", bench.curve, COLOURS[0])
    marks = tuple((item.threshold, item.pooled.macro_f1) for item in bench.thresholds)
    dots = Series("reported", marks, COLOURS[1], "dots")
    lines = line_chart([curve, dots], percent_axis("threshold"), percent_axis("macro F1"))
    error = "" if bench.calibration_error is None else f"Expected calibration error {bench.calibration_error:.3f}."
    bins = reliability_chart([(item.mean_score, item.share_right, item.steps) for item in bench.bins])
    return (
        Chart("Macro F1 against threshold", lines, (("pooled", COLOURS[0]), ("reported thresholds", COLOURS[1]))),
        Chart("Reliability", bins, note=f"{error} On the dashed line a score is the share of right steps."),
    )


def _process_tables(bench: ProcessBench) -> tuple[Table, ...]:
    overall = tuple(
        (
            f"{item.threshold:g}",
            percent(item.pooled.macro_f1),
            interval_note(item.interval.low, item.interval.high),
            percent(item.step_weighted_macro_f1),
            percent(item.pooled.f1_right),
            percent(item.pooled.f1_wrong),
            percent(item.first_errors.f1),
        )
        for item in bench.thresholds
    )
    if (held := bench.held_out) is not None:
        interval = interval_note(held.interval.low, held.interval.high)
        figures = (held.counts.macro_f1, held.counts.f1_right, held.counts.f1_wrong)
        pooled, right, wrong = (percent(figure) for figure in figures)
        overall += ((f"{held.threshold:.3f} (best on half)", pooled, interval, "", right, wrong, ""),)
    columns = ("Threshold", "Macro F1", "95%", "Step-weighted", "F1 right", "F1 wrong", "First error F1")
    note = "Best on half: chosen on the questions of one half, reported on the other."
    names = tuple(f"F1 at {item.threshold:g}" for item in bench.thresholds)
    tables = [
        Table("Overall", columns, overall, note),
        Table("By source", ("Source", "Responses", "Steps", "AUC", *names), _group_rows(bench.sources)),
        Table("By policy model", ("Policy model", "Responses", "Steps", "AUC", *names), _group_rows(bench.policies)),
    ]
    if bench.published:
        sources = tuple(group.name for group in bench.sources)
        rows = tuple(
            (
                item.model,
                f"{item.overall:.1f}",
                *(f"{item.sources[s]:.1f}" if s in item.sources else "" for s in sources),
            )
            for item in bench.published
        )
        tables.append(Table("Published", ("Model", "Overall", *sources), rows, bench.published[0].source))
    return (*tables, *left_out_table(bench.left_out))


def _group_rows(groups: Sequence[Group]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            group.name,
            f"{group.samples:,}",
            f"{group.steps:,}",
            number(group.auc),
            *(percent(item.macro_f1) for item in group.counts),
        )
        for group in groups
    )


def _process_row(sample: Sample, threshold: float, images: tuple[PageImage, ...]) -> RowView:
    wrong, severity = _severity(sample, threshold)
    score = aggregate_scores(sample.candidate.scores)
    name = str(sample.row.id) if len(sample.row.candidates) == 1 else f"{sample.row.id}, response {sample.index + 1}"
    steps = steps_of(sample.candidate, sample.labels, threshold)
    return RowView(
        id=name,
        source=sample.row.source,
        policy=sample.row.policy,
        question=sample.row.question,
        images=images,
        candidates=(Candidate("Solution", score, steps),),
        wrong_calls=wrong,
        severity=severity,
        score=score,
        answer=answer_of(sample.row.labels),
        verdict=f"{wrong} of {sum(map(abs, sample.labels))} steps called wrongly"
        if wrong
        else "every step called right",
    )


def _severity(sample: Sample, threshold: float) -> tuple[int, float]:
    """Number of wrong calls, and how far the worst of them is from the threshold."""
    pairs = zip(sample.labels, sample.candidate.scores, strict=True)
    far = [abs(score - threshold) for label, score in pairs if label and (score > threshold) != (label == 1)]
    return len(far), max(far, default=0.0)
