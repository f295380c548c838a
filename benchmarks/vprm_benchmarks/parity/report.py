"""A parity report, and its three forms: a table for people, one JSON document, a self-contained HTML page with
plots."""

from __future__ import annotations

import html
import io
from dataclasses import asdict, dataclass, field

from rich import box
from rich.table import Table
from rich.text import Text

from vprm_benchmarks.parity.stages import StageResult


@dataclass(frozen=True)
class ParityReport:
    """The outcome over all cases; ``scores`` holds (reference, bundle) of every step for the plots."""

    bundle: str
    checkpoint: str
    precision: str
    engine: str
    cases: int
    candidates: int
    steps: int
    stages: tuple[StageResult, ...]
    scores: tuple[tuple[float, float], ...] = field(repr=False)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every stage is within its tolerance."""
        return all(stage.passed for stage in self.stages)

    def to_json(self) -> dict[str, object]:
        """A JSON-ready document; infinite errors (not a number) become null."""
        stages = []
        for stage in self.stages:
            entry = asdict(stage)
            entry["max"] = entry["needed"]
            entry["problems"] = list(stage.problems)
            stages.append({key: None if value == float("inf") else value for key, value in entry.items()})
        return {
            "passed": self.passed,
            "bundle": self.bundle,
            "checkpoint": self.checkpoint,
            "precision": self.precision,
            "engine": self.engine,
            "cases": self.cases,
            "candidates": self.candidates,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "stages": stages,
        }


def table_from_report(report: ParityReport) -> Table:
    """One row a stage: verdict, errors, the smallest tolerance that would pass, the one allowed, where it was worst."""
    table = Table(
        title=Text(f"{report.bundle} against {report.checkpoint}"),
        caption=f"{report.engine}; max is the smallest tolerance that passes",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("stage", "", "values", "mean", "p99", "max", "allowed", "worst case"):
        numeric = name in ("values", "mean", "p99", "max", "allowed")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name != "worst case")
    for stage in report.stages:
        table.add_row(
            stage.stage,
            "[green]ok[/]" if stage.passed else "[bold red]FAILED[/]",
            f"{stage.values:,}",
            f"{stage.mean:.1e}",
            f"{stage.p99:.1e}",
            f"{stage.needed:.1e}",
            f"{stage.limit:.0e} {stage.unit[:3]}" if stage.limit else "exact",
            Text(stage.worst_case or ""),
        )
    return table


def html_from_report(report: ParityReport) -> str:
    """One page with the table, a scatter of the two sides' scores and a histogram of their differences, drawn inline
    as SVG."""
    rows = "".join(_html_row(stage) for stage in report.stages)
    verdict = "every stage within its tolerance" if report.passed else "out of tolerance"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>vprm parity: {verdict}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1d2330; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #d9dde5; }}
.ok {{ color: #0a7a3d; }} .failed {{ color: #b3261e; font-weight: 600; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem; }} .plots svg {{ max-width: 100%; height: auto; }}
</style></head><body>
<h1>Parity: <span class="{"ok" if report.passed else "failed"}">{verdict}</span></h1>
<p>Bundle <code>{html.escape(report.bundle)}</code> ({html.escape(report.precision)}, {html.escape(report.engine)})
against <code>{html.escape(report.checkpoint)}</code>:
{report.cases} cases, {report.candidates} candidates, {report.steps} steps.</p>
<table><thead><tr><th>stage</th><th></th><th>values</th><th>mean</th><th>p99</th>
<th>max = smallest tolerance that passes</th><th>allowed</th><th>unit</th><th>why this much</th></tr></thead>
<tbody>{rows}</tbody></table>
<div class="plots">{_scatter_svg(report)}{_histogram_svg(report)}</div>
</body></html>
"""


def _html_row(stage: StageResult) -> str:
    verdict = '<td class="ok">ok</td>' if stage.passed else '<td class="failed">failed</td>'
    problems = "".join(f"<br>{html.escape(problem)}" for problem in stage.problems[:5])
    return (
        f"<tr><td>{stage.stage}</td>{verdict}<td>{stage.values:,}</td><td>{stage.mean:.2e}</td><td>{stage.p99:.2e}</td>"
        f"<td>{stage.needed:.2e}</td><td>{stage.limit:g}</td><td>{stage.unit}</td>"
        f"<td>{html.escape(stage.reason)}{problems}</td></tr>"
    )


def _scatter_svg(report: ParityReport) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#b8bfcc", linewidth=1, zorder=1)
    axes.scatter(
        [pair[0] for pair in report.scores], [pair[1] for pair in report.scores], s=12, color="#2456b3", zorder=2
    )
    axes.set(xlabel="reference step score", ylabel="bundle step score", title="Step scores", xlim=(0, 1), ylim=(0, 1))
    return _svg(figure)


def _histogram_svg(report: ParityReport) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.hist([got - wanted for wanted, got in report.scores], bins=41, color="#2456b3")
    axes.set(xlabel="bundle minus reference", ylabel="steps", title="Differences of step scores")
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
    return _svg(figure)


def _svg(figure: object) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    text = buffer.getvalue()
    return text[text.index("<svg") :]
