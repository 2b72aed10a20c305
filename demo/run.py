"""`windsor run`: everything on one machine, and a startup's month played into it.

Servers that the settings name are used; the others are embedded, their data kept in a folder.
Playing the story again changes nothing: the calls are the same, with the same record
timestamps, and a call is stored once.
"""

import asyncio
import itertools
import logging
import random
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
)
from rich.console import Console
from rich.table import Table

from consumer import app
from consumer.errors import WindsorError
from consumer.kafka import check_connection, lag_of_group, security_of
from consumer.log import configure_logging
from consumer.options import kafka_options
from consumer.schema import migrate
from consumer.settings import Secret, Settings
from dashboard.address import local_url
from dashboard.app import serve
from demo.caller import Caller, kept_token, parted, send
from demo.servers import embedded_kafka, embedded_postgres
from demo.story import StoryRecord, live, story

_PARTITIONS = 4
_CAUGHT_UP_SECONDS_MAX = 120.0
_PAUSE_SECONDS_MAX = 3.0

_SUMMARY = (
    ("Customers", "SELECT count(*) FROM windsor.users"),
    ("identified", "SELECT count(*) FROM windsor.users WHERE identified"),
    ("merged", "SELECT count(*) FROM windsor.merges"),
    ("Visitors yet unknown", "SELECT count(*) FROM windsor.user_ids WHERE user_id IS NULL"),
    ("Feed", "SELECT count(*) FROM windsor.feed WHERE NOT hidden"),
    ("hidden pages", "SELECT count(*) FROM windsor.feed WHERE hidden"),
    ("Groups", "SELECT count(*) FROM windsor.groups"),
    ("Audiences", "SELECT count(*) FROM windsor.audiences"),
    ("Dead letters", "SELECT count(*) FROM windsor.dead_letters"),
)
_RECENT = """
SELECT f.occurred_at, coalesce(u.name, u.email, u.user_id, 'somebody') AS who, f.summary, f.category
FROM windsor.feed AS f
LEFT JOIN windsor.users AS u ON u.user_id = f.user_id
WHERE NOT f.hidden
ORDER BY f.occurred_at DESC
LIMIT 8
"""
_DEAD_LETTERS = """
SELECT reason, count(*) AS count, min(detail) AS example
FROM windsor.dead_letters GROUP BY reason ORDER BY reason
"""


async def run_everything(settings: Settings) -> None:
    """Start what is missing, migrate, consume, play the story; stay up until Ctrl-C."""
    # Quieter than a worker of its own: a person reads along.
    configure_logging("console", "warning")
    # It logs errors while the broker's group coordinator is still starting.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    screen = Console()
    folder = Path(settings.run_folder)
    with ExitStack() as servers:
        settings, psql = _with_servers(settings, folder, servers, screen)
        dsn = str(settings.database_url)
        applied = await migrate(dsn)
        screen.print(f"Schema ready ({', '.join(applied) or 'nothing to migrate'})")
        await _make_topic(settings)
        async with _worker(settings) as (port, stop, task):
            screen.print(f"Worker up: metrics at http://127.0.0.1:{port}/metrics")
            async with _dashboard(settings, stop) as (url, link):
                caller = Caller(url, await kept_token(dsn, folder))
                screen.print(f"Endpoint up: {caller.url}/v1/track")
                records = await _not_set_aside(dsn, story())
                started = time.monotonic()
                sent, direct = parted(records, int(time.time() * 1000))
                await send(caller, sent)
                await _play(settings, direct, screen)
                await _caught_up(settings, task)
                seconds = time.monotonic() - started
                screen.print(
                    f"{len(records):,} records played and stored in {seconds:.1f} s,"
                    f" {len(sent):,} of them through the endpoint\n"
                )
                await _show(dsn, screen)
                screen.print(f"\nDashboard:    {link}", soft_wrap=True, markup=False)
                screen.print(f"Token:        {caller.token}", soft_wrap=True, markup=False)
                screen.print(f"To try it:    {caller.curl()}", soft_wrap=True, markup=False)
                screen.print(f"Or by psql:   {psql} '{_shown(dsn)}'", soft_wrap=True, markup=False)
                screen.print(f"Metrics:      http://127.0.0.1:{port}/metrics")
                screen.print("The story goes on until Ctrl-C.")
                going_on = asyncio.create_task(_go_on(settings))
                waiting = asyncio.create_task(stop.wait())
                await asyncio.wait((waiting, going_on, task), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                going_on.cancel()
                # Set already, unless the worker ended by itself.
                stop.set()
            screen.print("Draining and shutting down")
    screen.print("Stopped; the data is kept, and another run goes on from it")


def _with_servers(
    settings: Settings, folder: Path, servers: ExitStack, screen: Console
) -> tuple[Settings, str]:
    """Embed the servers that the settings do not name; tell which psql opens the database."""
    found: dict[str, Any] = {"http_host": "127.0.0.1"}
    psql = "psql"
    if settings.database_url is None:
        screen.print("Starting Postgres")
        postgres = servers.enter_context(embedded_postgres(folder.absolute() / "postgres"))
        found["database_url"] = Secret(postgres.dsn)
        psql = shutil.which("psql") or str(postgres.psql)
    if settings.kafka_bootstrap_servers is None:
        screen.print("Starting Kafka")
        kafka = servers.enter_context(
            embedded_kafka(folder.absolute() / "kafka", progress=screen.print)
        )
        found["kafka_bootstrap_servers"] = kafka.bootstrap_servers
        found["kafka_security_protocol"] = "PLAINTEXT"
    return msgspec.structs.replace(settings, **found), psql


@asynccontextmanager
async def _worker(
    settings: Settings,
) -> AsyncIterator[tuple[int, asyncio.Event, "asyncio.Task[None]"]]:
    """Run the worker beside; gives its port, its stop and its task."""
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with AsyncExitStack() as exits:
        task = asyncio.create_task(app.consume(settings, stop, port.set_result))
        exits.push_async_callback(_ended, stop, task)
        await asyncio.wait((port, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            raise WindsorError("the worker ended before it had begun")
        yield await port, stop, task


async def _ended(stop: asyncio.Event, task: "asyncio.Task[None]") -> None:
    stop.set()
    await task


@asynccontextmanager
async def _dashboard(settings: Settings, stop: asyncio.Event) -> AsyncIterator[tuple[str, str]]:
    """Serve the dashboard beside; gives where it is on this machine, and where one signs in."""
    loop = asyncio.get_running_loop()
    port: asyncio.Future[int] = loop.create_future()
    link: asyncio.Future[str] = loop.create_future()
    # The worker's metrics have the port of the settings.
    settings = msgspec.structs.replace(settings, http_port=0)
    async with AsyncExitStack() as exits:
        task = asyncio.create_task(
            serve(
                settings, stop,
                started=lambda port_, _probes_port: port.set_result(port_), told=link.set_result,
            )
        )  # fmt: skip
        exits.push_async_callback(_ended, stop, task)
        await asyncio.wait((link, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            raise WindsorError("the dashboard ended before it had begun")
        yield local_url(settings, await port), await link


async def _go_on(settings: Settings) -> None:
    """Let small things happen now, one after the other, at an easy pace."""
    rng = random.Random()
    producer = AIOKafkaProducer(**_kafka(settings), acks="all")
    await producer.start()
    try:
        for number in itertools.count():
            await asyncio.sleep(
                rng.uniform(0.4, _PAUSE_SECONDS_MAX) if number else _PAUSE_SECONDS_MAX
            )
            record = live(int(time.time() * 1000), number)
            await producer.send(
                _topic(settings), value=record.value, key=record.key,
                timestamp_ms=record.timestamp_ms,
            )  # fmt: skip
    finally:
        await producer.stop()


async def _not_set_aside(dsn: str, records: list[StoryRecord]) -> list[StoryRecord]:
    """Leave out broken records that an earlier run has put among the dead letters.

    A call delivered again is known by its id; a broken record has none, so it would be set
    aside once more, from its new offset.
    """
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT value FROM windsor.dead_letters")
    finally:
        await connection.close()
    known = {row["value"] for row in rows}
    return [record for record in records if record.expect is None or record.value not in known]


def _shown(dsn: str) -> str:
    """The address without a password."""
    return re.sub(r"(?<=://)([^:/@]*):[^@/]+@", r"\1@", dsn)


async def _make_topic(settings: Settings) -> None:
    await check_connection(kafka_options(settings))
    admin = AIOKafkaAdminClient(**_kafka(settings))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(_topic(settings), _PARTITIONS, 1)])
    except (
        TopicAlreadyExistsError,
        # Where topics are somebody else's to make, the worker says what it misses.
        TopicAuthorizationFailedError,
        ClusterAuthorizationFailedError,
    ):
        pass
    finally:
        await admin.close()


async def _play(settings: Settings, records: list[StoryRecord], screen: Console) -> None:
    producer = AIOKafkaProducer(**_kafka(settings), acks="all", enable_idempotence=True)
    await producer.start()
    try:
        with screen.status("Playing a startup's month") as status:
            for number, record in enumerate(records):
                await producer.send(
                    _topic(settings),
                    value=record.value,
                    key=record.key,
                    timestamp_ms=record.timestamp_ms,
                    headers=list(record.headers),
                )
                if number % 500 == 0:
                    status.update(f"Playing a startup's month: {number:,} of {len(records):,}")
    finally:
        await producer.stop()


async def _caught_up(settings: Settings, worker: "asyncio.Task[None]") -> None:
    """Wait until the group has committed everything on the topic."""
    options = msgspec.structs.replace(kafka_options(settings), topics=_topic(settings))
    try:
        async with asyncio.timeout(_CAUGHT_UP_SECONDS_MAX):
            while not worker.done():
                if not any(lag.records for lag in await lag_of_group(options)):
                    return
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise WindsorError("the worker did not catch up: look at its log") from error


async def _show(dsn: str, screen: Console) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        summary = Table("What there is", "", title="Customers, in one place", min_width=60)
        for name, sql in _SUMMARY:
            summary.add_row(name, f"{await connection.fetchval(sql):,}")
        feed = Table("When", "Who", "What", "Category", title="Latest in the feed")
        for row in await connection.fetch(_RECENT):
            when = f"{row['occurred_at']:%b %d %H:%M}"
            feed.add_row(when, row["who"], row["summary"], row["category"])
        audiences = Table("Audience", "Class", "Members", title="Audiences")
        for row in await connection.fetch("SELECT * FROM windsor.audiences ORDER BY name"):
            audiences.add_row(row["name"], row["computation_class"], str(row["members_count"]))
        letters = Table("Reason", "Count", "For example", title="Dead letters")
        for row in await connection.fetch(_DEAD_LETTERS):
            letters.add_row(row["reason"], str(row["count"]), row["example"])
    finally:
        await connection.close()
    for table in (summary, feed, audiences, letters):
        screen.print(table, markup=False)


def _kafka(settings: Settings) -> dict[str, Any]:
    """What all clients are told: the brokers, and how they are secured."""
    options = kafka_options(settings)
    return {"bootstrap_servers": options.bootstrap_servers, **security_of(options)}


def _topic(settings: Settings) -> str:
    topics = settings.kafka_topics
    if topics.startswith("^"):
        raise WindsorError("WINDSOR_KAFKA_TOPICS: `windsor run` plays into one topic: name it")
    return topics.split(",", maxsplit=1)[0].strip()
