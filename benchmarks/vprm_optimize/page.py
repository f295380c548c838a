"""report.html: the report as one page, with accuracy against speed as a chart."""

from collections.abc import Sequence
from typing import Any

from vprm_optimize.report import COLUMNS, outcome_cells
from vprm_report import Axis, Card, Chart, Page, Series, Table, html_from_page, line_chart
from vprm_report.charts import COLOURS

_STAGE_COLUMNS = ("stage", "estimated s", "took s", "CPU s", "others' CPU s", "memory")
_STAGES = "Estimates are for an idle machine. Memory: without mapped files."


def html_of(report: dict[str, Any]) -> str:
    """The page of a report. Raises MissingExtraError without Jinja."""
    chosen = next(one for one in report["recipes"] if one["state"] == "chosen")
    quality, speed = chosen["quality"] or {}, chosen["speed"] or {}
    request = report["request_timed"]
    cards = [Card("chosen", report["chosen"], report["reason"])]
    if "mean_error" in quality:
        cards.append(Card("step-score error", f"{quality['mean_error']:.4f}", f"{quality['rows']} rows judged"))
    if speed:
        note = f"{request['tiles']} tiles, {request['responses']} responses"
        cards.append(Card("seconds of a request", f"{speed['best_of_n_s']:.3g}", note))
    if chosen["size_bytes"]:
        cards.append(Card("size", f"{chosen['size_bytes'] / 1e6:,.1f} MB"))
    tables = [
        Table("Recipes", COLUMNS, tuple(tuple(outcome_cells(one)) for one in report["recipes"]), _method(report)),
        Table("Machine", ("", ""), _machine(report)),
        Table("Stages", _STAGE_COLUMNS, _stages(report), _STAGES),
        Table("The same by hand", ("command",), tuple((line,) for line in report["commands"])),
        Table("Not measured here", ("",), tuple((line,) for line in report["not_measured"])),
        Table("Notes", ("",), tuple((note,) for note in report["notes"])),
    ]
    chart = _chart(report["recipes"])
    page = Page(
        title=f"Best bundle of {report['model']}",
        subtitle=f"made for {report['made_for']['title']}, goal {report['goal']}, budget {report['budget']['name']}",
        cards=tuple(cards),
        charts=() if chart is None else (chart,),
        tables=tuple(table for table in tables if table.rows),
        rows=(),
        rows_in_all=0,
        footer=f"vprm {report['vprm']}",
    )
    return html_from_page(page)


def _method(report: dict[str, Any]) -> str:
    budget, rows, request = report["budget"], report["rows"], report["request_timed"]
    return (
        f"Against the checkpoint in floating point, on {rows['judging']} rows; "
        f"{rows['calibration']} others calibrated. "
        f"Allowed: error {budget['mean_error']:g}, F1 change {budget['f1_change']:g}, flips of choices "
        f"{budget['flips_outside']:.1%} (interval: 95%). Timed: {request['tiles']} tiles, "
        f"{request['responses']} responses of {request['steps']} steps of {request['tokens_per_step']} tokens."
    )


def _stages(report: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    def figure(value: float | None, unit: float = 1.0, form: str = ",.0f") -> str:
        return "" if value is None else format(value / unit, form)

    return tuple(
        (
            one["name"],
            figure(one["estimated_s"]),
            figure(one["seconds"]),
            figure(one["cpu_s"]),
            figure(one["others_cpu_s"]),
            f"{figure(one['memory_bytes'], 1e6)} MB" if one["memory_bytes"] else "",
        )
        for one in report["took"]["stages"]
    )


def _machine(report: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    machine = report["machine"]
    memory = machine["memory_bytes"]
    lines = [
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores"),
        ("instruction sets", ", ".join(machine["instruction_sets"])),
        ("memory", "" if memory is None else f"{memory / 1e9:.0f} GB"),
    ]
    lines += [("GPU", f"{gpu['name']}, driver {gpu['driver']}") for gpu in machine["gpus"]]
    return tuple(lines)


def _chart(recipes: Sequence[dict[str, Any]]) -> Chart | None:
    """Step-score error against seconds of a request; None if nothing has both."""
    points = [
        (one["name"], one["speed"]["best_of_n_s"], one["quality"]["mean_error"] if one["quality"] else 0.0)
        for one in recipes
        if one["speed"] and (one["quality"] or one["precision"] == "fp32")
    ]
    if not points:
        return None
    slowest, worst = max(x for _, x, _ in points) * 1.15, max([y for *_, y in points] + [1e-4]) * 1.2
    coloured = [(name, x, y, COLOURS[number % len(COLOURS)]) for number, (name, x, y) in enumerate(points)]
    series = [Series(name, ((x, y),), colour, "dots") for name, x, y, colour in coloured]
    svg = line_chart(series, _axis("seconds of a request", slowest), _axis("mean step-score error", worst))
    return Chart("Accuracy against speed", svg, tuple((name, colour) for name, _, _, colour in coloured))


def _axis(label: str, high: float) -> Axis:
    return Axis(label, 0.0, high, tuple((high * tick / 4, f"{high * tick / 4:.3g}") for tick in range(5)))
