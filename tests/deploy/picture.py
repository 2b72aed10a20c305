"""Draw the board as it stands after two minutes of a worker's life, into docs/operate/board.svg.

`python -m tests.deploy.picture`: real Kafka, Postgres, worker and Prometheus; each panel is drawn
from what its own queries answer, in the board's own places, as Grafana would but without it.
"""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.schema import migrate
from demo.servers import embedded_kafka, embedded_postgres
from tests.deploy.conftest import DEPLOY
from tests.deploy.watched import Prometheus, producing, watched

_PICTURE: Final = DEPLOY.parent / "docs/operate/board.svg"
_TOPIC: Final = "segment-events"
_SECONDS: Final = 120
_COLUMN, _ROW, _GAP = 52, 24, 6
_COLOURS: Final = ("#2f7ed8", "#e08a1e", "#3a9e5c", "#c8433e", "#8a63b8", "#4fb3b3", "#b8a13a")
_LEVELS: Final = {"green": _COLOURS[2], "orange": _COLOURS[1], "red": _COLOURS[3]}

Series = tuple[str, list[tuple[float, float]]]


async def live(prometheus: Prometheus) -> dict[int, list[Series]]:
    """What each panel's queries answer, by the panel's id."""
    board = json.loads((DEPLOY / "grafana/windsor.json").read_text())
    end = time.time()
    found: dict[int, list[Series]] = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            answered = await prometheus.get(
                "query_range", step="1", start=str(end - _SECONDS), end=str(end),
                query=target["expr"].replace("$__rate_interval", "5s").replace("$job", ".*"),
            )  # fmt: skip
            for series in answered["result"]:
                name = target["legendFormat"]
                for label, value in series["metric"].items():
                    name = name.replace(f"{{{{{label}}}}}", value)
                points = [(at - end + _SECONDS, float(value)) for at, value in series["values"]]
                points = [point for point in points if math.isfinite(point[1])]
                found.setdefault(panel["id"], []).append((name, points))
    return found


def drawn(found: dict[int, list[Series]]) -> str:
    """The picture, as SVG."""
    panels = json.loads((DEPLOY / "grafana/windsor.json").read_text())["panels"]
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = 24 * _COLUMN + _GAP, bottom * _ROW + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="system-ui, sans-serif" font-size="11" fill="#24292f">',
        f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>',
    ]
    for panel in panels:
        at = panel["gridPos"]
        box = (
            at["x"] * _COLUMN + _GAP, at["y"] * _ROW + _GAP,
            at["w"] * _COLUMN - _GAP, at["h"] * _ROW - _GAP,
        )  # fmt: skip
        if panel["type"] == "row":
            parts.append(_text(box[0] + 4, box[1] + 14, panel["title"], "font-weight='bold'"))
            continue
        parts.append(_frame(box, panel["title"]))
        defaults = panel["fieldConfig"]["defaults"]
        unit = defaults["unit"]
        series = found.get(panel["id"], [])
        if panel["type"] == "stat":
            parts += _stat(box, series, unit, defaults["thresholds"]["steps"])
        else:
            parts += _lines(box, series, unit)
    return "\n".join([*parts, "</g></svg>", ""])


def _frame(box: tuple[int, int, int, int], title: str) -> str:
    x, y, width, height = box
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="#fff" stroke="#dcdfe3"/>'
        + _text(x + 8, y + 16, title, "font-weight='600'")
    )


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(words)}</text>'


def _stat(
    box: tuple[int, int, int, int],
    series: Sequence[Series],
    unit: str,
    steps: Sequence[dict[str, Any]],
) -> list[str]:
    x, y, width, height = box
    newest = series[0][1][-1][1] if series and series[0][1] else None
    words = "no data" if newest is None else _shown(newest, unit)
    reached = [s["color"] for s in steps if s["value"] is None or (newest or 0) >= s["value"]]
    middle = f'text-anchor="middle" font-size="26" fill="{_LEVELS[reached[-1]]}"'
    return [_text(x + width / 2, y + height * 0.68, words, middle)]


def _lines(box: tuple[int, int, int, int], series: Sequence[Series], unit: str) -> list[str]:
    x, y, width, height = box
    left, top, right, low = x + 52, y + 36, x + width - 10, y + height - 34
    most = max((value for _, points in series for _, value in points), default=0) or 1
    parts = []
    for share in (0, 0.5, 1):
        level = low - share * (low - top)
        parts.append(f'<path d="M{left} {level:.0f}H{right}" stroke="#eceef0"/>')
        label = _shown(most * share, unit)
        parts.append(_text(left - 4, level + 4, label, 'text-anchor="end" fill="#6e7781"'))
    for number, (_, points) in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        for run in _runs(points):
            across, up = (right - left) / _SECONDS, (low - top) / most
            path = " ".join(f"{left + at * across:.1f},{low - v * up:.1f}" for at, v in run)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
    parts += _legend(left, low + 22, right, [name for name, _ in series])
    return parts


def _runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Points without a gap between them: a line is not drawn where there was nothing."""
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] < 1.5:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _legend(x: float, y: float, right: float, names: Sequence[str]) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        if x + 7 * len(name) > right:
            parts.append(_text(x, y, "…"))
            break
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<rect x="{x:.0f}" y="{y - 7:.0f}" width="10" height="3" fill="{colour}"/>')
        parts.append(_text(x + 14, y, name, 'fill="#57606a"'))
        x += 26 + 6.2 * len(name)
    return parts


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.0f} ms"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}{'B' if unit == 'bytes' else ''}"
    return f"{value:.3g}" + {"s": " s", "cps": "/s", "ops": "/s"}.get(unit, "")


async def picture(folder: Path) -> str:
    """A worker's two minutes: steady calls, and Postgres away for a moment."""
    async with AsyncExitStack() as stack:
        kafka = stack.enter_context(embedded_kafka(folder / "kafka")).bootstrap_servers
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        await admin.create_topics([NewTopic(_TOPIC, 4, 1)])
        await admin.close()
        async with AsyncExitStack() as watching:
            with embedded_postgres(folder / "postgres") as server:
                await migrate(server.dsn)
                it = watching.enter_context(watched(folder, kafka, _TOPIC, server.dsn))
                await watching.enter_async_context(producing(kafka, _TOPIC, 500, 4))
                await asyncio.sleep(_SECONDS * 0.6)
            await asyncio.sleep(8)
            with embedded_postgres(folder / "postgres"):
                await asyncio.sleep(_SECONDS * 0.4 - 8)
                found = await live(it.prometheus)
                await watching.aclose()
    return drawn(found)


if __name__ == "__main__":
    with TemporaryDirectory(prefix="windsor-picture-") as _name:
        Path(_name).chmod(0o755)
        _picture = asyncio.run(picture(Path(_name)))
    _PICTURE.parent.mkdir(exist_ok=True)
    _PICTURE.write_text(_picture)
