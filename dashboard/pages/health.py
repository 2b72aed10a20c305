"""Health: whether events come in, how fast they are seen, and what waits."""

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumer.errors import SourceError, TransientSinkError
from consumer.kafka import KafkaOptions, lag_of_group
from consumer.sql import load_queries
from dashboard.live import Live
from dashboard.plots import plot_of
from dashboard.shell import Shell

log = structlog.get_logger()

_SQL: Final = load_queries("operations.sql", "dashboard.sql")
_INTERVAL_SECONDS: Final = 5.0
_SAMPLES_MAX: Final = 720
_BY_MINUTE: Final = timedelta(hours=1)
_BY_MINUTE_EVENTS_MAX: Final = 50_000
_COUNTED_MAX: Final = 100_000


class Sample(NamedTuple):
    """What Kafka said at a moment."""

    at: datetime
    lag_records: int
    committed_records: int
    """The sum of committed offsets."""


class HealthPages:
    """The handlers of the health page; Kafka is asked from the first look on."""

    def __init__(self, shell: Shell, kafka: KafkaOptions, live: Live, stop: asyncio.Event) -> None:
        self._shell = shell
        self._live = live
        self._kafka = kafka
        self._stop = stop
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES_MAX)
        self._fault: str | None = None
        self._task: asyncio.Task[None] | None = None

    def routes(self) -> list[BaseRoute]:
        """Where they answer."""
        return [Route("/health", self.health), Route("/health/now", self.now)]

    async def health(self, request: Request) -> Response:
        """The page; what changes on it is asked for again and again."""
        return self._shell.page(request, "health.html", section="Health", **await self._told())

    async def now(self, request: Request) -> Response:
        """What changes."""
        return self._shell.page(request, "health_now.html", **await self._told())

    async def _told(self) -> dict[str, Any]:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._sample())
        views, now = self._shell.views, datetime.now(UTC)
        by_minute = await views.rows(
            _SQL["events_by_minute"], now - _BY_MINUTE, _BY_MINUTE_EVENTS_MAX
        )
        newest = await views.row(_SQL["newest_event"])
        storage = await views.row(_SQL["storage"])
        version = await views.row(_SQL["schema_version"])
        reasons = await views.rows(_SQL["dead_letters_by_reason"], _COUNTED_MAX)
        events = _filled([(row["minute"], float(row["events"])) for row in by_minute], now)
        samples = list(self._samples)
        return {
            "newest": newest,
            "events_plot": plot_of(events),
            "events_last": events[-2][1] if len(events) > 1 else 0.0,
            "lag_plot": plot_of([(sample.at, float(sample.lag_records)) for sample in samples]),
            "lag": samples[-1].lag_records if samples else None,
            "rate_plot": plot_of(rates := rates_of(samples)),
            "rate": rates[-1][1] if rates else None,
            "fresh_plot": plot_of(fresh := list(self._live.freshness)),
            "freshness": fresh[-1][1] if fresh else None,
            "storage": storage,
            "schema_version": version["version"] if version else None,
            "dead_letters": sum(row["letters"] for row in reasons),
            "fault": self._fault,
        }

    async def _sample(self) -> None:
        # As one who watches: so it is measured how soon an event is seen.
        async with self._live.watching():
            await self._ask_kafka()

    async def _ask_kafka(self) -> None:
        while not self._stop.is_set():
            try:
                lags = await lag_of_group(self._kafka)
            except SourceError as error:
                self._fault = str(error)
            except TransientSinkError as error:
                log.warning("lag.unknown", error=str(error))
            else:
                self._fault = None
                self._samples.append(
                    Sample(
                        datetime.now(UTC),
                        sum(lag.records for lag in lags),
                        sum(lag.committed or 0 for lag in lags),
                    )
                )
            try:
                await asyncio.wait_for(self._stop.wait(), _INTERVAL_SECONDS)
            except TimeoutError:
                continue


def rates_of(samples: Sequence[Sample]) -> list[tuple[datetime, float]]:
    """Records a second between samples; none below zero, as when a group is set back."""
    rates = []
    for before, after in itertools.pairwise(samples):
        seconds = (after.at - before.at).total_seconds()
        records = after.committed_records - before.committed_records
        rates.append((after.at, max(records, 0) / seconds if seconds > 0 else 0.0))
    return rates


def _filled(
    points: Sequence[tuple[datetime, float]], now: datetime
) -> list[tuple[datetime, float]]:
    """Minutes without events are points too, up to now."""
    if not points:
        return []
    known = dict(points)
    minute, filled = points[0][0], []
    while minute <= now:
        filled.append((minute, known.get(minute, 0.0)))
        minute += timedelta(minutes=1)
    return filled
