"""Somebody who looks at the pages: signed in, with a story or calls by hand behind them."""

import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from consumer.core.call import Call, Rejected
from consumer.core.decode import Decoder
from consumer.ports import Batch
from consumer.postgres import PostgresOptions, open_sink
from demo.story import story
from tests.core.calls import HandRecord
from tests.dashboard.serving import Served, dashboard, settings_for

NOWHERE = "127.0.0.1:1"


async def store(dsn: str, values: Iterable[bytes], start_ms: int = 1_793_750_400_000) -> None:
    """Store records as a worker does."""
    decoder = Decoder()
    outcomes = [
        outcome
        for offset, value in enumerate(values)
        for outcome in decoder.decode(HandRecord(offset, timestamp=start_ms, value=value))
    ]
    async with open_sink(PostgresOptions(dsn)) as sink:
        for start in range(0, len(outcomes), 500):
            some = outcomes[start : start + 500]
            calls = [outcome for outcome in some if isinstance(outcome, Call)]
            dead = [outcome for outcome in some if isinstance(outcome, Rejected)]
            await sink.write(Batch(calls, dead))


async def store_calls(dsn: str, calls: Iterable[Mapping[str, Any]]) -> None:
    """Store calls by hand, of records of this moment."""
    await store(dsn, map(msgspec.json.encode, calls), int(time.time() * 1000))


async def store_story(dsn: str) -> None:
    """Store the month that `make run` plays."""
    await store(dsn, (record.value for record in story() if record.value is not None))


class Looker:
    """A browser without eyes: cookies, and forms with their token."""

    def __init__(self, client: httpx.AsyncClient, served: Served) -> None:
        self.client = client
        self.served = served

    async def get(self, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own
        return await self.client.get(path, **options)

    async def page(self, path: str) -> str:
        """A page that is there."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
        return answer.text

    async def csrf_token(self) -> str:
        found = re.search(r'<meta name="csrf" content="([^"]+)">', await self.page("/sources"))
        assert found is not None
        return found[1]

    async def send(self, path: str, **form: str) -> httpx.Response:
        """Send a form as the page has it."""
        form["csrf"] = await self.csrf_token()
        return await self.client.post(path, data=form)


@asynccontextmanager
async def looking(dsn: str, kafka: str = NOWHERE, **settings: object) -> AsyncIterator[Looker]:
    """Look at the dashboard of a database, signed in by its link."""
    async with (
        dashboard(settings_for(kafka, "calls", dsn, **settings)) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
    ):
        answer = await client.get(served.link)
        assert answer.status_code == 303
        yield Looker(client, served)


def lines_of(html: str) -> list[str]:
    """The sentences of a page's lines, as somebody reads them."""
    found = re.findall(r'<span class="visually-hidden">Details of (.*?)</span>', html, re.DOTALL)
    return [_unescaped(text) for text in found]


def more_of(html: str) -> str | None:
    """Where a page goes on, by itself, when it is scrolled to its end."""
    found = re.search(r'hx-get="(/[a-z-]+/more\?[^"]*)"', html)
    return None if found is None else _unescaped(found[1])


def _unescaped(text: str) -> str:
    for escaped, char in (("&#39;", "'"), ("&#34;", '"'), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(escaped, char)
    return text.replace("&amp;", "&")
