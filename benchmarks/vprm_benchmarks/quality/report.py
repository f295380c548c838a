"""A comparison as one JSON document, as lines for people, and as a page."""

from dataclasses import asdict, dataclass
from typing import Any

from vprm_benchmarks.quality.budget import Check
from vprm_benchmarks.quality.compare import LeftOutRow
from vprm_benchmarks.quality.figures import MARGIN, Figures
from vprm_report import Card, Chart, Page, Table, column_chart, html_from_page

_SHOWN_MARGINS = 20


@dataclass(frozen=True)
class QualityReport:
    """What was compared, what came out, and whether it is within the budget."""

    bundle: str
    precision: str
    against: str
    rows: int
    figures: Figures
    checks: tuple[Check, ...]
    profile: tuple[float, ...] | None  # relative error of each layer's keys
    kept_high: tuple[str, ...]
    left_out: tuple[LeftOutRow, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every figure is within its budget."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The document of `--json`."""
        figures = self.figures
        return {
            "bundle": self.bundle,
            "precision": self.precision,
            "against": self.against,
            "rows": self.rows,
            "left_out": {"count": len(self.left_out), "rows": [asdict(row) for row in self.left_out]},
            "step_score_error": {
                "steps": figures.errors.steps,
                "mean": figures.errors.mean,
                "p99": figures.errors.p99,
                "max": figures.errors.max,
            },
            "labels": [
                {"name": f.name, "reference": f.reference, "candidate": f.candidate, "change": f.change}
                for f in figures.labels
            ],
            "choices": {
                "count": figures.choices.choices,
                "flips": len(figures.choices.flip_margins),
                "margin": MARGIN,
                "flips_outside_margin": figures.choices.flips_outside,
                "flip_margins": list(figures.choices.flip_margins[:_SHOWN_MARGINS]),
            },
            "layer_key_error": None if self.profile is None else list(self.profile),
            "kept_high": list(self.kept_high),
            "budget": [
                {"name": c.name, "value": c.value, "allowed": c.allowed, "passed": c.passed} for c in self.checks
            ],
            "passed": self.passed,
        }

    def lines(self) -> list[tuple[str, str, str]]:
        """Rows of (figure, value, what the budget allows) for a table."""
        figures, allowed = self.figures, {check.name: check for check in self.checks}

        def limit(name: str) -> str:
            return f"{allowed[name].allowed:g}" if name in allowed else ""

        errors = figures.errors
        rows = [
            ("mean step-score error", f"{errors.mean:.5f}", limit("mean step-score error")),
            ("99th percentile", f"{errors.p99:.5f}", ""),
            ("largest", f"{errors.max:.5f}", ""),
        ]
        for f in figures.labels:
            rows.append((f.name, f"{f.reference:.4f} -> {f.candidate:.4f} ({f.change:+.4f})", ""))
        if figures.f1_change is not None:
            rows.append(("macro F1 change", f"{figures.f1_change:.4f}", limit("macro F1 change")))
        choices = figures.choices
        if choices.choices:
            largest = f", largest margin {choices.flip_margins[0]:.4f}" if choices.flip_margins else ""
            rows.append(("choice flips", f"{len(choices.flip_margins)} of {choices.choices}{largest}", ""))
            name = "choice flips outside the margin"
            rows.append((name, f"{choices.flips_outside:.2%} (margin {MARGIN})", limit(name)))
        return rows

    def page(self) -> Page:
        """The same for people who judge it later."""
        errors, choices = self.figures.errors, self.figures.choices
        charts: tuple[Chart, ...] = ()
        if self.profile is not None:
            columns = [(str(layer), value) for layer, value in enumerate(self.profile)]
            svg = column_chart(columns, "layer", "relative error of cached keys")
            charts = (Chart("Error by layer", svg),)
        excluded = f"Kept in floating point: {', '.join(self.kept_high)}" if self.kept_high else ""
        return Page(
            title=f"Quality of {self.bundle}: {'within' if self.passed else 'beyond'} the budget",
            subtitle=f"{self.precision} against {self.against}, {self.rows} rows",
            cards=(
                Card("Mean step-score error", f"{errors.mean:.5f}", f"of {errors.steps:,} steps"),
                Card("Largest", f"{errors.max:.4f}", f"99th percentile {errors.p99:.4f}"),
                Card("Choice flips", f"{len(choices.flip_margins)} of {choices.choices}", f"margin {MARGIN}"),
            ),
            charts=charts,
            tables=(Table("Figures", ("Figure", "Value", "Budget"), tuple(self.lines()), excluded),),
            footer="Made by vprm.",
        )

    def to_html(self) -> str:
        """The page as one HTML document. Raises MissingExtraError without Jinja."""
        return html_from_page(self.page())
