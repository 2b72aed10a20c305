"""Two kinds of plots as SVG: bars, and curves.

Small, the same bytes from the same figures, and without a background: each colour has enough
contrast on white as well as on black.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

TEXT: Final = "#6e7781"
GRID: Final = "#6e778155"
STRONG: Final = "#2f81f7"
OTHER: Final = "#bf8700"
PLAIN: Final = "#8c959f"
FAINT: Final = "#8c959f80"

_WIDTH: Final = 720
# From the name of one curve to the next.
_LEGEND: Final = 190
_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


class Bar(NamedTuple):
    """One of a plot of bars."""

    label: str
    value: float
    shown: str
    color: str


class Curve(NamedTuple):
    """One of a plot of curves."""

    label: str
    points: Sequence[tuple[float, float]]
    color: str


class Axis(NamedTuple):
    """Where values are, and which are named."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where between low (0) and high (1) a value is."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Draw horizontal bars, from 0."""
    left, right, top, pitch = 275, 115, 44, 26
    longest = max(row.value for row in rows)
    parts = [_text(0, 18, title, size=15, weight=600)]
    for number, row in enumerate(rows):
        y = top + number * pitch
        width = max(1.0, (_WIDTH - left - right) * row.value / longest)
        parts += [
            _text(left - 10, y + 13, row.label, anchor="end"),
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="18" rx="2" fill="{row.color}"/>',
            _text(left + width + 8, y + 13, row.shown),
        ]
    return _svg(title, top + len(rows) * pitch + 6, parts)


def curves(title: str, x: Axis, y: Axis, lines: Sequence[Curve], x_title: str) -> str:
    """Draw lines over a grid, and their names above it."""
    left, right, top, height = 64, 32, 64, 220
    bottom, end = top + height, _WIDTH - right

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + (end - left) * x.share(point[0]), bottom - height * y.share(point[1])

    parts = [_text(0, 18, title, size=15, weight=600)]
    for value, name in y.ticks:
        row = at((x.low, value))[1]
        parts.append(_line(left, row, end, row))
        parts.append(_text(left - 8, row + 4, name, anchor="end"))
    for value, name in x.ticks:
        column = at((value, y.low))[0]
        parts.append(_line(column, bottom, column, bottom + 4))
        parts.append(_text(column, bottom + 18, name, anchor="middle"))
    parts.append(_text((left + end) / 2, bottom + 38, x_title, anchor="middle"))
    for number, line in enumerate(lines):
        column = left + number * _LEGEND
        parts += [
            f'<rect x="{column}" y="37" width="18" height="3" rx="1" fill="{line.color}"/>',
            _text(column + 26, 43, line.label),
        ]
        points = [at(point) for point in line.points]
        path = " ".join(f"{column:.1f},{row:.1f}" for column, row in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{line.color}" stroke-width="2"'
            ' stroke-linejoin="round"/>'
        )
    return _svg(title, bottom + 50, parts)


def decades(low: float, high: float) -> Axis:
    """Give the logarithmic axis of seconds that holds all from low to high."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    ticks = [(10.0**power, _seconds(power)) for power in range(first, last + 1)]
    return Axis(10.0**first, 10.0**last, ticks, logarithmic=True)


def _seconds(power: int) -> str:
    return f"{10**power:,} s" if power >= 0 else f"{10 ** (power + 3):g} ms"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: int = 400,
) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{TEXT}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GRID}"/>'


def _svg(title: str, height: float, parts: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}"'
        f' width="{_WIDTH}" role="img" font-family="{_FONT}">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"]) + "\n"
