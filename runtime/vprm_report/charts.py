"""Charts as inline SVG: no library, colours from the page's style sheet, every label escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 480, 300  # of the view box; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 42
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#64748b", "#be185d")


@dataclass(frozen=True)
class Series:
    """Points (x, y) in order of x. `style`: a line, a dashed line for reference, a line with dots, or dots alone."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: str
    style: Literal["line", "dashed", "marked", "dots"] = "line"


@dataclass(frozen=True)
class Axis:
    """An axis: its label, limits, and (place, text) ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Bar:
    """A share with the limits of its interval."""

    name: str
    value: float
    low: float
    high: float
    colour: str


def line_chart(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Lines in a frame with grid lines at the ticks."""
    parts = [_frame(x, y)]
    for item in series:
        places = " ".join(f"{_x(x, px):.1f},{_y(y, py):.1f}" for px, py in item.points)
        dash = ' stroke-dasharray="5 4"' if item.style == "dashed" else ""
        if item.style != "dots":
            parts.append(f'<polyline points="{places}" fill="none" stroke="{item.colour}" stroke-width="2.2"{dash}/>')
        for px, py in item.points if item.style in ("marked", "dots") else ():
            parts.append(_dot(x, y, px, py, 3.4, item.colour, f"{item.name}: {py:.3f}"))
    return _svg(parts)


def reliability_chart(bins: Sequence[tuple[float, float, int]]) -> str:
    """(mean score, share right, steps) of each bin: dots whose area is the share of steps, against the diagonal."""
    axis = percent_axis("mean score of the steps in a bin")
    parts = [_frame(axis, percent_axis("share that is right"))]
    parts.append(
        f'<line x1="{_x(axis, 0):.1f}" y1="{_y(axis, 0):.1f}" x2="{_x(axis, 1):.1f}" y2="{_y(axis, 1):.1f}" '
        'class="reference" stroke-dasharray="5 4"/>'
    )
    filled = [item for item in bins if item[2]]
    total = sum(item[2] for item in filled) or 1
    places = " ".join(f"{_x(axis, mean):.1f},{_y(axis, share):.1f}" for mean, share, _ in filled)
    parts.append(f'<polyline points="{places}" fill="none" stroke="{COLOURS[0]}" stroke-width="1.6" opacity=".6"/>')
    for mean, share, steps in filled:
        radius = 3 + 15 * (steps / total) ** 0.5
        text = f"{steps} steps, mean score {mean:.2f}, {100 * share:.0f}% right"
        parts.append(_dot(axis, axis, mean, share, radius, COLOURS[0], text, ' fill-opacity=".75"'))
    return _svg(parts)


def bar_chart(bars: Sequence[Bar], label: str) -> str:
    """Horizontal bars of shares from 0 to 1, with their intervals and values."""
    left, height = 150, (HEIGHT - TOP - BOTTOM) / max(1, len(bars))
    width = WIDTH - RIGHT - 40 - left
    parts = []
    for number, bar in enumerate(bars):
        top = TOP + number * height
        middle = top + height / 2
        end, low, high = (left + width * share for share in (bar.value, bar.low, bar.high))
        parts += [
            f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect x="{left}" y="{top + height * 0.16:.1f}" width="{end - left:.1f}" '
            f'height="{height * 0.68:.1f}" rx="3" fill="{bar.colour}"/>',
            f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8" '
            'class="interval"/>',
            f'<text x="{max(high, end) + 6:.1f}" y="{middle + 4:.1f}">{100 * bar.value:.1f}</text>',
        ]
    parts.append(f'<text x="{left + width / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(label)}</text>')
    return _svg(parts)


def column_chart(columns: Sequence[tuple[str, float]], x_label: str, y_label: str) -> str:
    """Upright bars of values from 0, with their names; of many names only as many as fit."""
    top = max([value for _, value in columns], default=0.0) or 1.0
    width = (WIDTH - LEFT - RIGHT) / max(1, len(columns))
    every = -(-len(columns) // 12)
    x = Axis(x_label, 0.0, float(len(columns)), ())
    y = Axis(y_label, 0.0, top, tuple((top * share, f"{top * share:.3g}") for share in (0.0, 0.5, 1.0)))
    parts = [_frame(x, y)]
    for number, (name, value) in enumerate(columns):
        left, at = LEFT + number * width, _y(y, value)
        parts.append(
            f'<rect x="{left + width * 0.1:.1f}" y="{at:.1f}" width="{width * 0.8:.1f}" '
            f'height="{HEIGHT - BOTTOM - at:.1f}" fill="{COLOURS[0]}"><title>{escape(name)}: {value:.4g}</title></rect>'
        )
        if number % every == 0:
            place = f'x="{left + width / 2:.1f}" y="{HEIGHT - BOTTOM + 16}"'
            parts.append(f'<text {place} text-anchor="middle">{escape(name)}</text>')
    return _svg(parts)


def percent_axis(label: str, low: float = 0.0, high: float = 1.0, ticks: int = 5) -> Axis:
    """An axis of shares, shown in percent or as numbers from 0 to 1."""
    places = [low + (high - low) * number / ticks for number in range(ticks + 1)]
    return Axis(label, low, high, tuple((place, f"{place:.2f}".rstrip("0").rstrip(".")) for place in places))


def _frame(x: Axis, y: Axis) -> str:
    parts = []
    for place, text in x.ticks:
        at = _x(x, place)
        parts.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>')
    for place, text in y.ticks:
        at = _y(y, place)
        parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    turned = f'x="12" y="{middle_y}" transform="rotate(-90 12 {middle_y})"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(y.label)}</text>')
    return "".join(parts)


def _dot(x: Axis, y: Axis, px: float, py: float, radius: float, colour: str, title: str, more: str = "") -> str:
    place = f'cx="{_x(x, px):.1f}" cy="{_y(y, py):.1f}" r="{radius:.1f}"'
    return f'<circle {place} fill="{colour}"{more}><title>{escape(title)}</title></circle>'


def _x(axis: Axis, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - axis.low) / ((axis.high - axis.low) or 1)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - axis.low) / ((axis.high - axis.low) or 1)


def _svg(parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
