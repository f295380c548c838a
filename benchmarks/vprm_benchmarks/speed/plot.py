"""Images of benchmark documents: horizontal bars, one row a contender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vprm_benchmarks.speed.report import Report
from vprm_runtime.files import whole_file


@dataclass(frozen=True)
class Bars:
    """`series` has a value by row for each label; a row may be missing in some."""

    title: str
    x_label: str
    rows: Sequence[str]
    series: Mapping[str, Mapping[str, float]]


def draw_bars(bars: Bars, path: Path) -> None:
    """Write the image; x is logarithmic. Raises ImportError if matplotlib is not installed."""
    from matplotlib.figure import Figure

    rows, series = max(1, len(bars.rows)), max(1, len(bars.series))
    figure = Figure(figsize=(9, 1.2 + 0.45 * rows * series), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / series
    for place, (label, values) in enumerate(bars.series.items()):
        drawn = [(row, values[name]) for row, name in enumerate(bars.rows) if name in values]
        boxes = axes.barh(
            [row + place * height for row, _ in drawn], [value for _, value in drawn], height, label=label
        )
        axes.bar_label(boxes, fmt="%.3g", padding=3)
    axes.set_yticks(range(len(bars.rows)), list(bars.rows))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(bars.x_label)
    axes.set_title(bars.title)
    axes.margins(x=0.15)
    if bars.series:
        axes.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_report(report: Report, path: Path) -> None:
    """Medians of all contenders of a `vprm bench` run. Raises ImportError if matplotlib is not installed."""
    medians = {name: entry["median_s"] for name, entry in report.contenders.items() if "median_s" in entry}
    title = f"{report.benchmark}: {report.roofline['machine']['cpu']}, {report.roofline['threads']} threads"
    draw_bars(Bars(title, "seconds (log scale)", list(medians), {"median": medians}), path)
