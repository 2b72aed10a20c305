"""A worker as `windsor consume` runs it, asked over HTTP how it is."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from consumer import app
from consumer.settings import Settings


@asynccontextmanager
async def consuming(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A worker as `windsor consume` runs it, and a client of its port; stopped afterwards."""
    stop = asyncio.Event()
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(app.consume(settings, stop, listening.set_result))
    try:
        async with asyncio.timeout(20):
            port = await listening
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as client:
            yield client
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def until_answered(client: httpx.AsyncClient, path: str, wanted: tuple[int, str]) -> None:
    """Ask until this is the answer; the last other one is told if it does not come.

    An answer that ends with a colon and a space is the beginning of one.
    """
    answer = (0, "")
    deadline = time.monotonic() + 30
    while answer != wanted and not (
        wanted[1].endswith(": ") and answer[0] == wanted[0] and answer[1].startswith(wanted[1])
    ):
        assert time.monotonic() < deadline, answer
        response = await client.get(path)
        answer = (response.status_code, response.text)
        await asyncio.sleep(0.05)


def settings_for(kafka: str, topic: str, dsn: str, **others: Any) -> Settings:  # noqa: ANN401 - settings of all types
    return Settings(
        kafka_bootstrap_servers=kafka,
        kafka_topics=topic,
        database_url=dsn,
        http_host="127.0.0.1",
        http_port=0,
        retry_seconds_max=0.5,
        **others,
    )
