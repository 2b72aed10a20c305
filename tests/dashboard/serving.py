"""Whole dashboards in a test, as `windsor dashboard` runs them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from consumer.settings import Secret, Settings
from dashboard.app import serve


class Served(NamedTuple):
    """Where a dashboard answers."""

    url: str
    probes_url: str
    link: str
    """Signs in once, where that is the door."""


def settings_for(kafka: str, topic: str, dsn: str, **more: object) -> Settings:
    """The settings of a dashboard on free ports of loopback."""
    return Settings(
        kafka_bootstrap_servers=kafka,
        kafka_topics=topic,
        database_url=Secret(dsn),
        dashboard_port=0,
        http_host="127.0.0.1",
        http_port=0,
        **more,  # type: ignore[arg-type]  # a test names what it needs
    )


@asynccontextmanager
async def dashboard(settings: Settings) -> AsyncIterator[Served]:
    """Serve a dashboard; stopped afterwards."""
    stop = asyncio.Event()
    listening: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    links: list[str] = []
    task = asyncio.create_task(
        serve(settings, stop, lambda *ports: listening.set_result(ports), links.append)
    )
    try:
        await asyncio.wait((listening, task), timeout=20, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        port, probes_port = listening.result()
        (link,) = links
        yield Served(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{probes_port}", link)
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)
