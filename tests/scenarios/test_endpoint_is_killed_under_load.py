"""The endpoint is killed in the middle: what it had acknowledged is in Postgres, each call once."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import asyncpg
import httpx

from demo.servers import free_port
from tests.dashboard.endpoint import new_token, until_ready
from tests.worker import until_consumed, working

PARTITIONS = 3
BATCH_CALLS = 50
SENDERS = 8
ACKNOWLEDGED_BEFORE_THE_KILL = 3_000


async def test_nothing_acknowledged_is_lost(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(PARTITIONS)
    _, token = await new_token(database)
    port, probes_port = free_port(), free_port()
    environment = {
        **os.environ,
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": kafka_server,
        "WINDSOR_KAFKA_TOPICS": name,
        "WINDSOR_DATABASE_URL": database,
        "WINDSOR_DASHBOARD_PORT": str(port),
        "WINDSOR_HTTP_HOST": "127.0.0.1",
        "WINDSOR_HTTP_PORT": str(probes_port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "dashboard", env=environment,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until_listening(f"http://127.0.0.1:{probes_port}")
        await until_ready(f"http://127.0.0.1:{probes_port}")
        acknowledged: list[str] = []
        killing = asyncio.create_task(killed_once_it_has(acknowledged, process))
        numbers = itertools.count()
        await asyncio.gather(*[
            send(f"http://127.0.0.1:{port}", token, numbers, acknowledged) for _ in range(SENDERS)
        ])  # fmt: skip
        await killing
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    async with working(kafka_server, name, database):
        await until_consumed(kafka_server, name, PARTITIONS)
    connection = await asyncpg.connect(database)
    try:
        stored = [row[0] for row in await connection.fetch("SELECT message_id FROM windsor.feed")]
    finally:
        await connection.close()

    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_THE_KILL
    assert set(acknowledged) - set(stored) == set()
    assert len(stored) == len(set(stored))


async def until_listening(url: str) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        while True:
            try:
                await client.get(f"{url}/healthz")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def killed_once_it_has(acknowledged: list[str], process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        while len(acknowledged) < ACKNOWLEDGED_BEFORE_THE_KILL:  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGKILL)


async def send(
    url: str, token: str, numbers: "itertools.count[int]", acknowledged: list[str]
) -> None:
    """Send until nobody answers."""
    async with httpx.AsyncClient(base_url=url, auth=(token, ""), timeout=30) as client:
        while True:
            ids = [f"m{next(numbers)}" for _ in range(BATCH_CALLS)]
            batch = [
                {"type": "track", "userId": f"u{id_}", "event": "E", "messageId": id_}
                for id_ in ids
            ]  # fmt: skip
            try:
                answer = await client.post("/v1/batch", json={"batch": batch})
            except httpx.TransportError:
                return
            assert answer.json() == {"success": True}
            acknowledged += ids
