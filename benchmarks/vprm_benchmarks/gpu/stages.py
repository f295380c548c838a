"""Stages under a time budget, with a report that is saved after each: a run that is killed leaves what it had."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass
class Stages:
    """Runs stages in turn. `report` is the JSON document in the making; it begins with `stages_s` and `results`."""

    budget_s: float
    say: Callable[[str], None]
    save: Callable[[dict[str, Any]], None]
    report: dict[str, Any] = field(default_factory=lambda: {"stages_s": {}, "results": []})
    _started: float = field(default_factory=time.monotonic)
    _longest: dict[str, float] = field(default_factory=dict)

    def elapsed_s(self) -> float:
        """Seconds since the first stage could begin."""
        return time.monotonic() - self._started

    def out_of_time(self) -> bool:
        """Whether the budget is used up."""
        return self.elapsed_s() > self.budget_s

    def run(self, name: str, call: Callable[[], Result], kind: str = "") -> Result:
        """Run a stage and note its time; stages of one `kind` take about as long as each other.

        Raises TimeoutError if it would begin, or by earlier stages of its kind end, after the budget.
        """
        started = self.elapsed_s()
        expected = self._longest.get(kind, 0.0)
        if started + expected > self.budget_s:
            raise TimeoutError(
                f"the time budget of {self.budget_s:.0f} s: {started:.0f} s are gone"
                + (f", and this took {expected:.0f} s before" if expected else "")
            )
        self.say(f"{started:6.1f} s  {name}")
        result = call()
        seconds = self.elapsed_s() - started
        self.report["stages_s"][name] = round(seconds, 2)
        if kind:
            self._longest[kind] = max(expected, seconds)
        self.saved()
        return result

    def skip(self, name: str, error: Exception) -> None:
        """Enter why something did not take part."""
        why = str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        self.report["results"].append({"name": name, "skipped": why})
        self.saved()

    def saved(self) -> None:
        """Hand the report over as it is now."""
        self.report["elapsed_s"] = round(self.elapsed_s(), 1)
        self.save(self.report)
