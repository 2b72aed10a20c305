"""Events arrive on a page that is open, a moment after they are stored."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import httpx
import pytest

from consumer.errors import TransientSinkError
from dashboard.events import Events, Line, Lines
from dashboard.live import Live
from tests.dashboard.endpoint import endpoint
from tests.dashboard.looking import Looker, looking, store_calls
from tests.worker import working


def call(number: int, **more: object) -> dict[str, object]:
    at = datetime.now(UTC) + timedelta(milliseconds=number)
    return {
        "type": "track", "userId": f"u{number}", "event": "Report Exported",
        "messageId": f"m{number}", "timestamp": at.isoformat(), **more,
    }  # fmt: skip


@asynccontextmanager
async def watching(looker: Looker, query: str = "") -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream of events, from its first one on."""
    async with looker.client.stream("GET", f"/feed/live?{query}", timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        async for line in lines:
            if line == "event: hello":
                break
        yield lines


async def told(lines: AsyncIterator[str]) -> dict[str, object]:
    async for line in lines:
        if line.startswith("data: {") and '"html"' in line:
            found: dict[str, object] = json.loads(line.removeprefix("data: "))
            return found
    raise AssertionError


async def test_event_is_on_the_page_a_moment_after_it_is_stored(database: str) -> None:
    async with looking(database) as looker, watching(looker) as lines:
        await store_calls(database, [call(0)])
        stored = time.monotonic()
        event = await asyncio.wait_for(told(lines), 30)
        seconds = time.monotonic() - stored
    assert event["newest"] == "u0 exported a report"
    assert event["count"] == 1
    assert 'class="line"' in str(event["html"])
    # A tenth of a second between looks; more on a machine that does much else.
    assert seconds < 5.0


class Feed:
    """The end of a feed, by a script: what each look finds, or how it fails."""

    def __init__(self, *script: Sequence[str] | Exception) -> None:
        self.looks = 0
        self.heeds_cancelling = True
        self._script = list(script)

    async def feed(self, *_: object) -> Lines:
        self.looks += 1
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            if self.heeds_cancelling:
                raise
            raise TransientSinkError("the connection has gone") from None
        found = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(found, Exception):
            raise found
        lines = [SimpleNamespace(place=place, received_at=datetime.now(UTC)) for place in found]
        return Lines(cast("list[Line]", lines), None, None)


def live_of(feed: Feed, stop: asyncio.Event | None = None) -> Live:
    return Live(cast("Events", feed), stop or asyncio.Event())


async def test_who_comes_as_the_last_one_leaves_is_told_too() -> None:
    feed, stop = Feed([]), asyncio.Event()
    live = live_of(feed, stop)
    async with live.watching():
        pass
    before = feed.looks
    async with asyncio.timeout(30), live.watching() as queue:
        assert feed.looks > before
        stop.set()
        assert await queue.get() == []


async def test_stream_ends_where_looking_breaks_and_where_it_has_been_stopped() -> None:
    live = live_of(Feed(ValueError("a bug")))
    async with asyncio.timeout(30), live.watching() as queue:
        assert await queue.get() == []
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(30), live_of(Feed([]), stop).watching() as queue:
        assert await queue.get() == []


async def test_nobody_looks_for_those_who_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.live._AWAY_SECONDS", 0.01)
    feed = Feed([])
    live = live_of(feed)
    feed.heeds_cancelling = False
    async with asyncio.timeout(30), live.watching():
        # The look that is under way is cancelled, and goes on all the same.
        before = feed.looks
        while feed.looks == before:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    left = feed.looks
    await asyncio.sleep(1)
    assert feed.looks <= left + 1


async def test_what_comes_after_an_outage_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.live._AWAY_SECONDS", 0.01)
    feed = Feed(TransientSinkError("away"), ["a"], ["b", "a"])
    async with asyncio.timeout(30), live_of(feed).watching() as queue:
        assert feed.looks > 1, "it said hello before it had seen what is there"
        assert [line.place for line in await queue.get()] == ["b"]


async def test_filters_hold_for_what_arrives(database: str) -> None:
    async with looking(database) as looker, watching(looker, "category=payment") as lines:
        await store_calls(database, [call(0), call(1, event="Charge Succeeded")])
        event = await asyncio.wait_for(told(lines), 30)
    assert (event["count"], event["newest"]) == (1, "u1 was charged")


async def test_hidden_events_do_not_arrive(database: str) -> None:
    async with looking(database) as looker:
        await looker.send("/hidden/hide", name="Report Exported")
        async with watching(looker) as lines:
            await store_calls(
                database, [call(0), call(1, type="page", name="Home"), call(2, event="Signed Up")]
            )
            event = await asyncio.wait_for(told(lines), 30)
    assert (event["count"], event["newest"]) == (1, "u2 signed up")


async def test_dashboard_ends_while_somebody_watches(database: str) -> None:
    async with httpx.AsyncClient(timeout=30) as other:
        async with looking(database) as looker:
            other.cookies.update(looker.client.cookies)
            request = other.build_request("GET", f"{looker.served.url}/feed/live")
            answer = await other.send(request, stream=True)
            assert answer.status_code == 200
            started = time.monotonic()
        # Leaving `looking` has stopped the dashboard, which ended the stream itself.
        assert time.monotonic() - started < 15
        await answer.aclose()


async def test_call_to_the_endpoint_is_on_an_open_page_a_moment_later(
    kafka_server: str, topic: Callable[[int], Awaitable[str]], database: str
) -> None:
    name = await topic(2)
    async with (
        endpoint(kafka_server, name, database) as door,
        working(kafka_server, name, database),
        looking(database) as looker,
        watching(looker) as lines,
    ):
        # The first one finds connections to be opened and statements to be planned.
        waited = []
        for number in range(20):
            sent = time.monotonic()
            answer = await door.client.post("/v1/track", json={
                "userId": f"u{number}", "event": "Report Exported", "messageId": f"live{number}",
                "timestamp": datetime.now(UTC).isoformat(),
            })  # fmt: skip
            assert answer.status_code == 200
            event = await asyncio.wait_for(told(lines), 20)
            assert event["newest"] == f"u{number} exported a report"
            waited.append(time.monotonic() - sent)
    # 300 ms where the machine does nothing else; here tests run beside each other.
    assert sorted(waited)[len(waited) // 2] < 2.0
