"""One image of a report: latency of a best-of-N request by contender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vprm_benchmarks.speed.plot import Bars, draw_bars


def draw(report: dict[str, Any], path: Path) -> None:
    """Write horizontal bars of the best-of-N latencies. Raises ImportError if matplotlib is not installed."""
    measured = [entry for entry in report["results"] if entry.get("ms")]
    counts = sorted({what for entry in measured for what in entry["ms"] if what.startswith("best of")}, key=_number)
    series = {what: {entry["name"]: entry["ms"][what] for entry in measured if what in entry["ms"]} for what in counts}
    title = f"{report['model']} on {report['device']['name']}"
    names = [entry["name"] for entry in measured]
    draw_bars(Bars(title, "milliseconds a request (log scale)", names, series), path)


def _number(what: str) -> int:
    return int(what.rsplit(" ", 1)[1])
