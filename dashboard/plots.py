"""Small plots as the attributes of SVG: no script, no style."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

WIDTH: Final = 300
HEIGHT: Final = 72


class Plot(NamedTuple):
    """A curve over time, drawn into 300 by 72."""

    curve: str
    """Points of a polyline; empty where there is nothing to draw."""
    area: str
    """The polygon below it."""
    begin: datetime | None
    end: datetime | None
    highest: float


def plot_of(points: Sequence[tuple[datetime, float]], *, is_stepped: bool = False) -> Plot:
    """Draw points, oldest first, from zero up.

    Args:
        points: When and how much.
        is_stepped: A value holds until the next one.
    """
    if len(points) < 2:  # noqa: PLR2004 - a line has two ends
        return Plot("", "", None, None, 0.0)
    begin, end = points[0][0], points[-1][0]
    span = (end - begin).total_seconds() or 1.0
    highest = max(value for _, value in points) or 1.0
    drawn: list[tuple[float, float]] = []
    for at, value in points:
        x = (at - begin).total_seconds() / span * WIDTH
        y = HEIGHT - max(value, 0.0) / highest * (HEIGHT - 4)
        if is_stepped and drawn:
            drawn.append((x, drawn[-1][1]))
        drawn.append((x, y))
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
    return Plot(curve, f"0,{HEIGHT} {curve} {WIDTH},{HEIGHT}", begin, end, highest)
