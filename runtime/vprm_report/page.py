"""The page: plain values in, one HTML text out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from vprm_runtime.extras import import_optional


@dataclass(frozen=True)
class Card:
    """A headline figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are aligned as numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Inline SVG (already escaped) and its legend: (name, colour) pairs."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class PageImage:
    """An image as a data URI, its size in pixels, and the grid of tiles that it was cut into."""

    uri: str
    width_px: int
    height_px: int
    columns: int
    rows: int
    caption: str


@dataclass(frozen=True)
class Step:
    """A step: its score in [0, 1], its label (1, 0, -1 or None) and whether the model's call contradicts it."""

    text: str
    score: float
    label: int | None = None
    wrong_call: bool = False

    @property
    def hue(self) -> int:
        """Colour from red (0) to green (130) by score."""
        return round(130 * min(1.0, max(0.0, self.score)))


@dataclass(frozen=True)
class Candidate:
    """A response. `right` is its label if there is one; `open` shows its steps at once."""

    title: str
    score: float | None
    steps: tuple[Step, ...]
    right: bool | None = None
    best: bool = False
    error: str | None = None
    open: bool = True


@dataclass(frozen=True)
class RowView:
    """A row. `wrong_calls` 0 means that the model was right; `severity` orders rows with equally many."""

    id: str
    source: str
    policy: str
    question: str
    images: tuple[PageImage, ...]
    candidates: tuple[Candidate, ...]
    wrong_calls: int
    severity: float
    score: float | None
    answer: str | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report; one without rows ends after its tables."""

    title: str
    subtitle: str
    cards: tuple[Card, ...]
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    rows: tuple[RowView, ...] = ()
    rows_in_all: int = 0
    rows_note: str = ""
    footer: str = ""


def html_from_page(page: Page) -> str:
    """The page as one HTML document that loads nothing. Raises MissingExtraError without Jinja."""
    jinja2, markupsafe = (import_optional(name, "an HTML report", "eval") for name in ("jinja2", "markupsafe"))
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    values: dict[str, Any] = {
        "page": page,
        "sources": sorted({row.source for row in page.rows}),
        "css": markupsafe.Markup(_asset("page.css")),
        "js": markupsafe.Markup(_asset("page.js")),
    }
    return str(environment.get_template("page.html.j2").render(values))


def _asset(name: str) -> str:
    return resources.files("vprm_report").joinpath("assets", name).read_text("utf-8")
