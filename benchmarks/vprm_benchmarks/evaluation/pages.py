"""Evaluations as pages: what `--html` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vprm_benchmarks.evaluation.best_of_n import MAJORITY, OUTCOME, PASS_AT_1, PASS_AT_N, BestOfN, Question
from vprm_benchmarks.evaluation.processbench import Group, ProcessBench, Sample
from vprm_benchmarks.evaluation.published import PUBLISHED_BEST_OF_N
from vprm_benchmarks.evaluation.scored import DataFile, LeftOut, ScoredCandidate, pictures
from vprm_benchmarks.report import (
    Axis,
    Bar,
    Candidate,
    Card,
    Chart,
    Page,
    Picture,
    RowView,
    Series,
    Step,
    Table,
    bar_chart,
    line_chart,
    percent_axis,
    picture_from_image,
    reliability_chart,
)
from vprm_benchmarks.report.charts import COLOURS
from vprm_runtime import InputError
from vprm_runtime.bundle.manifest import TilingInfo
from vprm_runtime.execution.aggregate import AGGREGATES, aggregate_scores

T = TypeVar("T")
_WITHOUT_PRM = (PASS_AT_1, MAJORITY, PASS_AT_N)
GREY, PALE = "#8a94a3", "#8fb0f5"
MAX_LISTED = 50  # rows that were left out, by name


@dataclass(frozen=True)
class PageContext:
    """What a page says about its making: data, model, engine; the tiling for grids; how many rows to show."""

    data: DataFile
    data_name: str
    model: str
    engine: str
    tiling: TilingInfo
    max_rows: int = 200

    @property
    def subtitle(self) -> str:
        """One line under the title."""
        return f"{self.model} on {self.data_name} · {self.engine}"


def process_page(bench: ProcessBench, samples: Sequence[Sample], context: PageContext) -> Page:
    """The page of a VisualProcessBench evaluation; wrong calls are those at the first threshold."""
    first = bench.thresholds[0]
    shown = _most_telling(samples, lambda sample: _severity(sample, first.threshold), context.max_rows)
    images = _pictures(context, [sample.row.number for sample in shown])
    cards = (
        Card(
            "Macro F1, pooled", _percent(first.pooled.macro_f1), _interval_note(first.interval.low, first.interval.high)
        ),
        Card("Macro F1, step-weighted", _percent(first.step_weighted_macro_f1), "mean over sources"),
        Card("AUC", _number(bench.auc), "right step above wrong step"),
        Card("First error found", _percent(_share(first.first_errors.found, first.first_errors.erroneous)), "exactly"),
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
        footer=_FOOTER,
    )


def best_of_n_page(bench: BestOfN, questions: Sequence[Question], context: PageContext) -> Page:
    """The page of a best-of-N evaluation; a wrong call is a wrong choice although a right response was there."""
    largest = bench.sizes[-1]
    shown = _most_telling(questions, lambda question: _wrong_choice(question, bench.aggregate), context.max_rows)
    images = _pictures(context, [question.row.number for question in shown])
    chosen = bench.line(bench.aggregate)
    gain = chosen.accuracy[-1] - bench.line(PASS_AT_1).accuracy[-1]
    cards = (
        Card(
            f"PRM, best of {largest}",
            _percent(chosen.accuracy[-1]),
            _interval_note(chosen.interval.low, chosen.interval.high),
        ),
        Card("Over pass@1", f"{100 * gain:+.1f}", "percentage points"),
        Card("pass@1", _percent(bench.line(PASS_AT_1).accuracy[-1]), "one response at random"),
        Card("Majority vote", _percent(bench.line(MAJORITY).accuracy[-1]), f"of {largest}"),
        Card("As one step", _percent(bench.line(OUTCOME).accuracy[-1]), "whole response scored at once"),
        Card(f"pass@{largest}", _percent(bench.line(PASS_AT_N).accuracy[-1]), "the most that a choice can reach"),
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
        footer=_FOOTER,
    )


_FOOTER = "Made by vprm. Grid lines show the tiles that the model sees; scores are the probability of a right step."


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
            _percent(item.pooled.macro_f1),
            _interval_note(item.interval.low, item.interval.high),
            _percent(item.step_weighted_macro_f1),
            _percent(item.pooled.f1_right),
            _percent(item.pooled.f1_wrong),
            _percent(item.first_errors.f1),
        )
        for item in bench.thresholds
    )
    if (held := bench.held_out) is not None:
        interval = _interval_note(held.interval.low, held.interval.high)
        figures = (held.counts.macro_f1, held.counts.f1_right, held.counts.f1_wrong)
        pooled, right, wrong = (_percent(figure) for figure in figures)
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
    return (*tables, *_left_out_table(bench.left_out))


def _group_rows(groups: Sequence[Group]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            group.name,
            f"{group.samples:,}",
            f"{group.steps:,}",
            _number(group.auc),
            *(_percent(item.macro_f1) for item in group.counts),
        )
        for group in groups
    )


def _left_out_table(left_out: Sequence[LeftOut]) -> tuple[Table, ...]:
    if not left_out:
        return ()
    rows = tuple((str(item.id), item.reason) for item in left_out[:MAX_LISTED])
    more = f"and {len(left_out) - MAX_LISTED:,} more" if len(left_out) > MAX_LISTED else ""
    return (Table(f"Left out: {len(left_out):,}", ("Row", "Why"), rows, more),)


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
            *(_percent(value) for value in line.accuracy),
            _interval_note(line.interval.low, line.interval.high),
        )
        for line in bench.lines
    )
    columns = ("Chosen by", *(f"N = {size}" for size in bench.sizes), f"95% at N = {bench.sizes[-1]}")
    ways = (PASS_AT_1, MAJORITY, OUTCOME, bench.aggregate, PASS_AT_N)
    by_source = tuple(
        (source, *(_percent(values[way]) for way in ways)) for source, values in sorted(bench.sources.items())
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
        *_left_out_table(bench.left_out),
    )


def _process_row(sample: Sample, threshold: float, images: tuple[Picture, ...]) -> RowView:
    wrong, severity = _severity(sample, threshold)
    score = aggregate_scores(sample.candidate.scores)
    name = str(sample.row.id) if len(sample.row.candidates) == 1 else f"{sample.row.id}, response {sample.index + 1}"
    steps = _steps(sample.candidate, sample.labels, threshold)
    return RowView(
        id=name,
        source=sample.row.source,
        policy=sample.row.policy,
        question=sample.row.question,
        pictures=images,
        candidates=(Candidate("Solution", score, steps),),
        wrong_calls=wrong,
        severity=severity,
        score=score,
        answer=_answer(sample.row.labels),
        verdict=f"{wrong} of {sum(map(abs, sample.labels))} steps called wrongly"
        if wrong
        else "every step called right",
    )


def _choice_row(question: Question, way: str, images: tuple[Picture, ...]) -> RowView:
    best = question.chosen(way)
    wrong, severity = _wrong_choice(question, way)
    order = sorted(range(len(question.correct)), key=lambda n: -(_or_zero(question.scores[way][n])))
    candidates = tuple(
        Candidate(
            title=f"Response {index + 1}",
            score=question.scores[way][index],
            steps=_steps(question.row.candidates[index], question.row.candidates[index].labels, None),
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
        pictures=images,
        candidates=candidates,
        wrong_calls=wrong,
        severity=severity,
        score=question.scores[way][best],
        answer=_answer(question.row.labels),
        verdict=f"{verdict}; {there}",
    )


def _steps(candidate: ScoredCandidate, labels: Sequence[int] | None, threshold: float | None) -> tuple[Step, ...]:
    result = []
    for number, (text, score) in enumerate(zip(candidate.steps, candidate.scores, strict=True)):
        label = labels[number] if labels is not None else None
        wrong = threshold is not None and bool(label) and (score > threshold) != (label == 1)
        result.append(Step(text, score, label, wrong))
    return tuple(result)


def _severity(sample: Sample, threshold: float) -> tuple[int, float]:
    """Number of wrong calls, and how far the worst of them is from the threshold."""
    pairs = zip(sample.labels, sample.candidate.scores, strict=True)
    far = [abs(score - threshold) for label, score in pairs if label and (score > threshold) != (label == 1)]
    return len(far), max(far, default=0.0)


def _wrong_choice(question: Question, way: str) -> tuple[int, float]:
    """1 where a wrong response was chosen though a right one was there, and by how much it was ahead."""
    best, scores = question.chosen(way), question.scores[way]
    right = [_or_zero(scores[n]) for n, correct in enumerate(question.correct) if correct]
    if question.correct[best] or not right:
        return 0, 0.0
    return 1, _or_zero(scores[best]) - max(right)


def _most_telling(items: Sequence[T], severity: Callable[[T], tuple[int, float]], limit: int) -> list[T]:
    """At most `limit` items in their order: half of them those with most wrong calls, the rest spread evenly."""
    if len(items) <= limit:
        return list(items)
    by_severity = sorted(range(len(items)), key=lambda n: severity(items[n]), reverse=True)
    worst, others = set(by_severity[: (limit + 1) // 2]), sorted(by_severity[(limit + 1) // 2 :])
    spread = {others[n * len(others) // (limit // 2)] for n in range(limit // 2)}
    return [items[n] for n in sorted(worst | spread)]


def _pictures(context: PageContext, numbers: Sequence[int]) -> Mapping[int, tuple[Picture, ...]]:
    """Pictures by row number; one that cannot be read any more is left out."""
    result: dict[int, tuple[Picture, ...]] = {}
    for number, images in pictures(context.data, set(numbers)):
        try:
            result[number] = tuple(picture_from_image(image, context.tiling) for image in images)
        except InputError:
            continue
    return result


def _answer(labels: Mapping[str, object]) -> str | None:
    answer = labels.get("answer")
    return None if answer is None else str(answer)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval_note(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _or_zero(score: float | None) -> float:
    return score if score is not None else 0.0
