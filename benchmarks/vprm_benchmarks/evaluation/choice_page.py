"""The page of a best-of-N evaluation: what `vprm eval best-of-n --html` writes."""

from __future__ import annotations

from collections.abc import Sequence

from vprm_benchmarks.evaluation.best_of_n import MAJORITY, OUTCOME, PASS_AT_1, PASS_AT_N, BestOfN, Question
from vprm_benchmarks.evaluation.page_parts import (
    FOOTER,
    PageContext,
    answer_of,
    images_of,
    interval_note,
    left_out_table,
    most_telling,
    percent,
    steps_of,
)
from vprm_benchmarks.evaluation.published import PUBLISHED_BEST_OF_N
from vprm_report import (
    COLOURS,
    Axis,
    Bar,
    Candidate,
    Card,
    Chart,
    Page,
    PageImage,
    RowView,
    Series,
    Table,
    bar_chart,
    line_chart,
    percent_axis,
)
from vprm_runtime.execution.aggregate import AGGREGATES

_WITHOUT_PRM = (PASS_AT_1, MAJORITY, PASS_AT_N)
GREY, PALE = "#8a94a3", "#8fb0f5"


def best_of_n_page(bench: BestOfN, questions: Sequence[Question], context: PageContext) -> Page:
    """The page of a best-of-N evaluation; a wrong call is a wrong choice although a right response was there."""
    largest = bench.sizes[-1]
    shown = most_telling(questions, lambda question: _wrong_choice(question, bench.aggregate), context.max_rows)
    images = images_of(context, [question.row.number for question in shown])
    chosen = bench.line(bench.aggregate)
    gain = chosen.accuracy[-1] - bench.line(PASS_AT_1).accuracy[-1]
    cards = (
        Card(
            f"PRM, best of {largest}",
            percent(chosen.accuracy[-1]),
            interval_note(chosen.interval.low, chosen.interval.high),
        ),
        Card("Over pass@1", f"{100 * gain:+.1f}", "percentage points"),
        Card("pass@1", percent(bench.line(PASS_AT_1).accuracy[-1]), "one response at random"),
        Card("Majority vote", percent(bench.line(MAJORITY).accuracy[-1]), f"of {largest}"),
        Card("As one step", percent(bench.line(OUTCOME).accuracy[-1]), "whole response scored at once"),
        Card(f"pass@{largest}", percent(bench.line(PASS_AT_N).accuracy[-1]), "the most that a choice can reach"),
    )
    return Page(
        title=f"Best of {largest}: which response to choose",
        subtitle=f"{context.subtitle} · {bench.questions} questions · response score: {bench.aggregate} of its steps",
        cards=cards,
        charts=(_accuracy_chart(bench), _ways_chart(bench)),
        tables=_best_of_n_tables(bench),
        rows=tuple(_choice_row(question, bench.aggregate, images.get(question.row.number, ())) for question in shown),
        rows_in_all=len(questions),
        rows_note="A wrong call is a wrong choice although a right response was there.",
        footer=FOOTER,
    )


def _accuracy_chart(bench: BestOfN) -> Chart:
    ways = (bench.aggregate, PASS_AT_N, MAJORITY, OUTCOME, PASS_AT_1)
    series = [
        Series(
            way,
            tuple((float(place), value) for place, value in enumerate(bench.line(way).accuracy)),
            colour,
            "dashed" if way in (PASS_AT_N, PASS_AT_1) else "marked",
        )
        for way, colour in zip(ways, COLOURS, strict=False)
    ]
    ticks = tuple((float(place), str(size)) for place, size in enumerate(bench.sizes))
    x = Axis("number of responses N", 0.0, float(max(1, len(bench.sizes) - 1)), ticks)
    legend = tuple((_way_name(item.name), item.colour) for item in series)
    return Chart("Accuracy against N", line_chart(series, x, percent_axis("accuracy")), legend)


def _ways_chart(bench: BestOfN) -> Chart:
    lines = sorted(bench.lines, key=lambda line: -line.accuracy[-1])
    bars = [
        Bar(
            _way_name(line.name),
            line.accuracy[-1],
            line.interval.low,
            line.interval.high,
            COLOURS[0] if line.name == bench.aggregate else GREY if line.name in _WITHOUT_PRM else PALE,
        )
        for line in lines
    ]
    note = "Blue: the PRM, the aggregate of the headline in full colour. Grey: without a PRM."
    return Chart(
        f"Ways to choose, N = {bench.sizes[-1]}", bar_chart(bars, "accuracy in percent, 95% interval"), note=note
    )


def _way_name(way: str) -> str:
    return f"PRM, {way} of steps" if way in AGGREGATES else "PRM, one step" if way == OUTCOME else way


def _best_of_n_tables(bench: BestOfN) -> tuple[Table, ...]:
    rows = tuple(
        (
            _way_name(line.name),
            *(percent(value) for value in line.accuracy),
            interval_note(line.interval.low, line.interval.high),
        )
        for line in bench.lines
    )
    columns = ("Chosen by", *(f"N = {size}" for size in bench.sizes), f"95% at N = {bench.sizes[-1]}")
    ways = (PASS_AT_1, MAJORITY, OUTCOME, bench.aggregate, PASS_AT_N)
    by_source = tuple(
        (source, *(percent(values[way]) for way in ways)) for source, values in sorted(bench.sources.items())
    )
    sizes = sorted({size for item in PUBLISHED_BEST_OF_N for size in item.best_of_n})
    published = tuple(
        (
            item.policy,
            f"{item.pass_at_1:.1f}",
            *(f"{item.best_of_n[n]:.1f}" if n in item.best_of_n else "" for n in sizes),
        )
        for item in PUBLISHED_BEST_OF_N
    )
    note = f"VisualPRM-8B choosing, mean of seven benchmarks; {PUBLISHED_BEST_OF_N[0].source}. Other data than here."
    return (
        Table("Accuracy", columns, rows, "PRM, one step: the whole response is scored as a single step."),
        Table(f"By source, N = {bench.sizes[-1]}", ("Source", *map(_way_name, ways)), by_source),
        Table("Published", ("Policy", "pass@1", *(f"N = {n}" for n in sizes)), published, note),
        *left_out_table(bench.left_out),
    )


def _choice_row(question: Question, way: str, images: tuple[PageImage, ...]) -> RowView:
    best = question.chosen(way)
    wrong, severity = _wrong_choice(question, way)
    order = sorted(range(len(question.correct)), key=lambda n: -(_or_zero(question.scores[way][n])))
    candidates = tuple(
        Candidate(
            title=f"Response {index + 1}",
            score=question.scores[way][index],
            steps=steps_of(question.row.candidates[index], question.row.candidates[index].labels, None),
            right=question.correct[index],
            best=index == best,
            error=question.row.candidates[index].error,
            open=index == best,
        )
        for index in order
    )
    right = sum(question.correct)
    there = f"{right} of {len(question.correct)} responses right"
    verdict = "wrong choice" if wrong else "right choice" if question.correct[best] else "nothing right to choose"
    return RowView(
        id=str(question.row.id),
        source=question.row.source,
        policy=question.row.policy,
        question=question.row.question,
        images=images,
        candidates=candidates,
        wrong_calls=wrong,
        severity=severity,
        score=question.scores[way][best],
        answer=answer_of(question.row.labels),
        verdict=f"{verdict}; {there}",
    )


def _wrong_choice(question: Question, way: str) -> tuple[int, float]:
    """1 if a wrong response was chosen though a right one was there, and by how much it was ahead."""
    best, scores = question.chosen(way), question.scores[way]
    right = [_or_zero(scores[n]) for n, correct in enumerate(question.correct) if correct]
    if question.correct[best] or not right:
        return 0, 0.0
    return 1, _or_zero(scores[best]) - max(right)


def _or_zero(score: float | None) -> float:
    return score if score is not None else 0.0
