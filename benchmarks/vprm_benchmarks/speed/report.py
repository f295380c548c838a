"""A benchmark's result: one JSON document for programs, tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Column, Table


@dataclass(frozen=True)
class Goal:
    """Target for a figure: `bar` must be met, `stretch` is the ambition, if there is one."""

    bar: float
    stretch: float | None = None
    better: Literal["lower", "higher"] = "lower"

    def met(self, value: float | None) -> Literal["stretch", "bar"] | None:
        """The harder of the two marks that a value reaches; None too if it was not measured."""
        if value is None:
            return None
        for name, mark in (("stretch", self.stretch), ("bar", self.bar)):
            if mark is not None and (value <= mark if self.better == "lower" else value >= mark):
                return name  # type: ignore[return-value]
        return None

    def to_json(self, value: float | None) -> dict[str, Any]:
        """The value, the marks, their direction and which one is met."""
        return {"value": value, "bar": self.bar, "stretch": self.stretch, "better": self.better, "met": self.met(value)}


@dataclass
class Report:
    """`contenders.<name>` has `median_s`, `times_s` and whatever else was measured; `ratios` are within this run."""

    benchmark: str
    roofline: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    contenders: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    goals: dict[str, tuple[float, Goal]] = field(default_factory=dict)  # figures by name
    accuracy: dict[str, Any] = field(default_factory=dict)

    def add_times(self, times: Mapping[str, Sequence[float]]) -> None:
        """Enter every contender's seconds and their median."""
        for name, values in times.items():
            entry = self.contenders.setdefault(name, {})
            entry |= {"median_s": statistics.median(values), "times_s": list(values)}

    def ratio(self, numerator: str, denominator: str, goal: Goal | None = None, key: str = "median_s") -> None:
        """Enter `<numerator>_over_<denominator>`, a ratio of two contenders' medians, and what it is held to."""
        value = self.contenders[numerator][key] / self.contenders[denominator][key]
        self.add_ratio(f"{numerator}_over_{denominator}", value, goal)

    def add_ratio(self, name: str, value: float, goal: Goal | None = None) -> None:
        """Enter a ratio by name, and what it is held to."""
        self.ratios[name] = value
        if goal is not None:
            self.hold(name, value, goal)

    def hold(self, name: str, value: float, goal: Goal) -> None:
        """Hold a figure to a goal."""
        self.goals[name] = (value, goal)

    def to_json(self) -> dict[str, Any]:
        """The document of `--json`."""
        return {
            "benchmark": self.benchmark,
            "settings": self.settings,
            "roofline": self.roofline,
            "contenders": self.contenders,
            "ratios": self.ratios,
            "goals": {name: goal.to_json(value) for name, (value, goal) in self.goals.items()},
            "accuracy": self.accuracy,
        }

    def tables(self) -> RenderableType:
        """Roofline, contenders and ratios, for a terminal."""
        return Group(*self._roofline_lines(), self._contender_table(), *self._ratio_tables())

    def _roofline_lines(self) -> list[str]:
        found = self.roofline["machine"]
        peaks = ", ".join(f"{name} {value:.2f}" for name, value in self.roofline["tflops"].items())
        lines = [
            f"{found['cpu']}, {self.roofline['threads']} threads ({', '.join(found['instruction_sets'])})",
            f"peak products in TFLOP/s: {peaks}; memory {self.roofline['memory_gb_per_s']:.1f} GB/s",
        ]
        physical = self.roofline.get("physical_tops")
        if physical:
            limits = ", ".join(f"{name} {value:.2f}" for name, value in physical.items() if "_" in name)
            lines.append(f"from registers in TOP/s: {limits}; reading {self.roofline['read_gb_per_s']:.1f} GB/s")
        return lines

    def _contender_table(self) -> Table:
        extras = sorted({key for entry in self.contenders.values() for key in entry} - {"median_s", "times_s"})
        table = Table(Column("contender", overflow="fold"), "median s", *extras)
        for name, entry in self.contenders.items():
            table.add_row(name, *(_cell(entry.get(key)) for key in ("median_s", *extras)))
        return table

    def _ratio_tables(self) -> list[Table]:
        figures = self.ratios | {name: value for name, (value, _) in self.goals.items()}
        if not figures:
            return []
        table = Table(Column("ratio", overflow="fold"), "value", "bar", "stretch", "met")
        for name, value in figures.items():
            marks = ["", "", ""]
            if name in self.goals:
                goal = self.goals[name][1]
                sign = "≤" if goal.better == "lower" else "≥"
                stretch = "" if goal.stretch is None else f"{sign} {goal.stretch:g}"
                marks = [f"{sign} {goal.bar:g}", stretch, goal.met(value) or "no"]
            table.add_row(name, f"{value:.3g}", *marks)
        return [table]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
