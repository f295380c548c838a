"""One picture of a report: latency of a best-of-N request by contender."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(report: dict[str, Any], path: Path) -> None:
    """Write horizontal bars of the best-of-N latencies. Raises ImportError where matplotlib is not installed."""
    from matplotlib.figure import Figure

    measured = [entry for entry in report["results"] if entry.get("ms")]
    counts = sorted({what for entry in measured for what in entry["ms"] if what.startswith("best of")}, key=_number)
    figure = Figure(figsize=(9, 1 + 0.45 * max(1, len(measured)) * max(1, len(counts))), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(1, len(counts))
    for place, what in enumerate(counts):
        rows = [(row, entry["ms"][what]) for row, entry in enumerate(measured) if what in entry["ms"]]
        bars = axes.barh([row + place * height for row, _ in rows], [ms for _, ms in rows], height, label=what)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks(range(len(measured)), [entry["name"] for entry in measured])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a request (log scale)")
    axes.set_title(f"{report['model']} on {report['device']['name']}")
    axes.margins(x=0.15)
    if counts:
        axes.legend()
    figure.savefig(path, dpi=120)


def _number(what: str) -> int:
    return int(what.rsplit(" ", 1)[1])
