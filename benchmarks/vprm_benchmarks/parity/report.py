"""A parity report, and its three forms: a table for people, one JSON document, a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from vprm_benchmarks.parity.cases import NotComparable
from vprm_benchmarks.parity.stages import StageResult
from vprm_report import COLOURS, Card, Chart, Page, Series, column_chart, line_chart, percent_axis
from vprm_report import Table as PageTable


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
    not_comparable: tuple[NotComparable, ...] = ()

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
            "not_comparable": [asdict(row) for row in self.not_comparable],
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
            Text("ok", "green") if stage.passed else Text("FAILED", "bold red"),
            f"{stage.values:,}",
            f"{stage.mean:.1e}",
            f"{stage.p99:.1e}",
            f"{stage.needed:.1e}",
            f"{stage.limit:.0e} {stage.unit[:3]}" if stage.limit else "exact",
            Text(stage.worst_case or ""),
        )
    return table


def page_from_report(report: ParityReport) -> Page:
    """The table with reasons, a scatter of the two sides' scores and a histogram of their differences."""
    rows = tuple(
        (
            stage.stage,
            "ok" if stage.passed else "failed",
            f"{stage.values:,}",
            *(f"{error:.2e}" for error in (stage.mean, stage.p99, stage.needed)),
            f"{stage.limit:g} {stage.unit}",
            "; ".join([stage.reason, *stage.problems[:5]]),
        )
        for stage in report.stages
    )
    columns = ("Stage", "", "Values", "Mean", "p99", "Max = smallest tolerance that passes", "Allowed", "Why this much")
    same = Series("equal", ((0.0, 0.0), (1.0, 1.0)), COLOURS[6], "dashed")
    steps = Series("bundle", tuple(sorted(report.scores)), COLOURS[0], "dots")
    scatter = line_chart([same, steps], percent_axis("reference step score"), percent_axis("bundle step score"))
    differences = np.array([got - wanted for wanted, got in report.scores])
    counts, edges = np.histogram(differences, bins=21) if len(differences) else ((), ())
    bars = [(f"{low:.1e}", float(count)) for low, count in zip(edges, counts, strict=False)]
    failed = [stage.stage for stage in report.stages if not stage.passed]
    return Page(
        title="Parity: " + ("every stage within its tolerance" if report.passed else "out of tolerance"),
        subtitle=f"{report.bundle} ({report.precision}, {report.engine}) against {report.checkpoint}",
        cards=(
            Card("Stages", f"{len(report.stages) - len(failed)} of {len(report.stages)}", "within their tolerance"),
            Card("Cases", f"{report.cases:,}", f"{report.candidates:,} candidates"),
            Card("Steps", f"{report.steps:,}", "scored by both sides"),
        ),
        charts=(
            Chart("Step scores", scatter),
            Chart("Differences of step scores", column_chart(bars, "bundle minus reference, from", "steps")),
        ),
        tables=(PageTable("Stages", columns, rows),),
        footer="Made by vprm.",
    )
