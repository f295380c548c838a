"""A comparison as one JSON document, as lines for people, and as one HTML page without outside resources."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vprm_benchmarks.quality.budget import Check
from vprm_benchmarks.quality.figures import MARGIN, Figures

_SHOWN_MARGINS = 20
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.3rem .7rem;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.pass{color:#176b2c}.fail{color:#a4131f;font-weight:600}
svg text{font:12px system-ui,sans-serif}"""


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

    def to_html(self) -> str:
        """One page."""
        verdict = "within the budget" if self.passed else "beyond the budget"
        failed = {check.name for check in self.checks if not check.passed}
        body = "".join(
            f"<tr><td>{html.escape(name)}</td><td class=n>{html.escape(value)}</td>"
            f"<td class='n {'fail' if name in failed else ''}'>{limit}</td></tr>"
            for name, value, limit in self.lines()
        )
        profile = "" if self.profile is None else f"<h2>Error by layer</h2>{_bars(self.profile)}"
        kept = f"<p>Kept in floating point: {html.escape(', '.join(self.kept_high))}</p>" if self.kept_high else ""
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>Quality of {html.escape(self.bundle)}</title>"
            f"<style>{_STYLE}</style><h1>Quality of {html.escape(self.bundle)}</h1>"
            f"<p>{html.escape(self.precision)} against {html.escape(self.against)}, {self.rows} rows: "
            f"<span class={'pass' if self.passed else 'fail'}>{verdict}</span></p>{kept}"
            f"<table><tr><th>figure<th>value<th>budget</tr>{body}</table>{profile}</html>\n"
        )


def _bars(values: Sequence[float]) -> str:
    """Relative error of each layer's cached keys, as bars."""
    width, height, largest = 26, 160, max([*values, 1e-12])
    bars = []
    for layer, value in enumerate(values):
        tall = value / largest * height
        x = 10 + layer * width
        bars.append(
            f"<rect x={x} y={height - tall + 20:.1f} width={width - 6} height={tall:.1f} fill='#3b6ea5'>"
            f"<title>layer {layer}: {value:.5f}</title></rect><text x={x} y={height + 36}>{layer}</text>"
        )
    label = f"<text x=10 y=14>relative error of the layer's cached keys, largest {largest:.4f}</text>"
    size = 20 + max(len(values) * width, 360)
    return f"<svg role=img width={size} height={height + 44} xmlns='http://www.w3.org/2000/svg'>{label}{''.join(bars)}</svg>"
