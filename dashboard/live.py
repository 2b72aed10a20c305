"""Events as they arrive: one look at the end of the feed serves everybody who watches.

While somebody watches, the newest events are asked for ten times a second, by the index that the
feed itself uses: nothing is asked of the writer, and what one transaction committed is on every
screen a tenth of a second later. What arrives late is not at the end, and shows where it belongs
when a page is next opened. When more arrive in a tenth of a second than a page holds, the newest
are shown.
"""

import asyncio
import statistics
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import asyncpg
import structlog

from consumer.errors import WindsorError
from dashboard.events import NEWEST, Events, Filters, Line

log = structlog.get_logger()

_INTERVAL_SECONDS: Final = 0.1
_AWAY_SECONDS: Final = 2.0
_LINES_MAX: Final = 60
_REMEMBERED_MAX: Final = 5_000
# A watcher who does not keep up loses the oldest of what waits.
_WAITING_MAX: Final = 32
_FRESHNESS_MAX: Final = 1_000
_LATELY_SECONDS: Final = 600.0
WATCHERS_MAX: Final = 200

_EVERYTHING: Final = Filters(shows_hidden=True)


class Live:
    """Tells watchers of new events, newest first; of none at all when it ends."""

    def __init__(self, events: Events, stop: asyncio.Event) -> None:
        self._events = events
        self._stop = stop
        self._watchers: set[asyncio.Queue[Sequence[Line]]] = set()
        self._task: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._known: OrderedDict[str, None] = OrderedDict()
        self.freshness: deque[tuple[datetime, float]] = deque(maxlen=_FRESHNESS_MAX)
        """When events were seen, and how many seconds after they had been received (the median)."""

    @property
    def is_full(self) -> bool:
        """Whether there are as many watchers as there may be."""
        return len(self._watchers) >= WATCHERS_MAX

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["asyncio.Queue[Sequence[Line]]"]:
        """Be told while inside of what is stored from now on."""
        queue: asyncio.Queue[Sequence[Line]] = asyncio.Queue(_WAITING_MAX)
        self._watchers.add(queue)
        if self._task is None or self._task.done():
            self._known.clear()
            self._looked = asyncio.Event()
            self._task = asyncio.create_task(self._look(self._looked))
        try:
            # What the first look finds was there before.
            await self._looked.wait()
            yield queue
        finally:
            self._watchers.discard(queue)
            if not self._watchers:
                self._task.cancel()
                # Whoever comes before it has ended finds none; should it outlive its
                # cancelling, it knows by this that it is nobody's.
                self._task, self._looked = None, asyncio.Event()

    async def _look(self, looked: asyncio.Event) -> None:
        try:
            await self._look_on(looked)
        finally:
            looked.set()
            if looked is self._looked:
                # Stopped, or broken: streams end, and browsers come again.
                self._tell([])

    async def _look_on(self, looked: asyncio.Event) -> None:
        is_first = True
        while not self._stop.is_set():
            try:
                found = await self._events.feed(_EVERYTHING, NEWEST, datetime.now(UTC), _LINES_MAX)
            except (WindsorError, asyncpg.PostgresError) as error:
                # Whatever it is, those who watch are told again once it has passed.
                log.warning("feed.unreachable", error=str(error))
                await asyncio.sleep(_AWAY_SECONDS)
                continue
            if looked is not self._looked:
                return
            fresh = [line for line in found.lines if line.place not in self._known]
            for line in fresh:
                self._known[line.place] = None
            while len(self._known) > _REMEMBERED_MAX:
                self._known.popitem(last=False)
            if fresh and not is_first:
                self._measure(fresh)
                self._tell(fresh)
            is_first = False
            looked.set()
            await asyncio.sleep(_INTERVAL_SECONDS)

    def _measure(self, lines: Sequence[Line]) -> None:
        now = datetime.now(UTC)
        waited = [(now - line.received_at).total_seconds() for line in lines]
        # What is older was held up before it came to us, or is played from a file.
        lately = [seconds for seconds in waited if 0 <= seconds < _LATELY_SECONDS]
        if lately:
            self.freshness.append((now, statistics.median(lately)))

    def _tell(self, lines: Sequence[Line]) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(lines)
