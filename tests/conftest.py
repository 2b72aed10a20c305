"""Real servers, one for the session; a fresh database and topic for each test."""

import asyncio
import itertools
import logging
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hypothesis import HealthCheck, settings

from consumer.schema import migrate
from tests import servers

_NUMBERS = itertools.count(os.getpid())
_TEMPLATE = "windsor_template"

# Real servers take their time; what is slow on a loaded machine is no failure.
settings.register_profile(
    "windsor",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("windsor")


def pytest_xdist_auto_num_workers() -> int:
    """How many tests run side by side: each process has servers of its own, unless they are given.

    Most tests wait for a server, so there are more processes than two cores would feed.
    """
    given = {"WINDSOR_TEST_DATABASE_URL", "WINDSOR_TEST_KAFKA"} & os.environ.keys()
    return 0 if given else (os.cpu_count() or 1) + 1


def in_database(dsn: str, database: str) -> str:
    """The same server, another database."""
    return re.sub(r"(?<=[^/])/[^/?]*(\?|$)", rf"/{database}\1", dsn, count=1)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a command configures ends with its test: its stderr is closed then."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Where embedded servers keep their data.

    Not below pytest's own: each session that starts closes that to all other users, and
    Postgres, which does not run as root, would stop in the middle of another session.
    """
    with tempfile.TemporaryDirectory(prefix="windsor-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[str]:
    """A Postgres with a migrated template database."""
    with servers.postgres_server(server_folder / "postgres") as dsn:
        asyncio.run(_make_template(dsn))
        yield dsn


async def _make_template(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE}")
        await connection.execute(f"CREATE DATABASE {_TEMPLATE}")
    finally:
        await connection.close()
    await migrate(in_database(dsn, _TEMPLATE))


@asynccontextmanager
async def fresh_database(server: str) -> AsyncIterator[str]:
    """A migrated database that is gone afterwards."""
    name = f"windsor_{next(_NUMBERS)}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        yield in_database(server, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def database(postgres_server: str) -> AsyncIterator[str]:
    """A fresh, migrated database."""
    async with fresh_database(postgres_server) as dsn:
        yield dsn


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_of_module(postgres_server: str) -> AsyncIterator[str]:
    """A database for what many tests of a module look at and none changes."""
    async with fresh_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def kafka_server(server_folder: Path) -> Iterator[str]:
    """A Kafka broker."""
    with servers.kafka_server(server_folder / "kafka") as bootstrap_servers:
        yield bootstrap_servers


@pytest_asyncio.fixture
async def topic(kafka_server: str) -> AsyncIterator[Callable[[int], Awaitable[str]]]:
    """Makes topics: give the number of partitions, get the name."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server)
    await admin.start()

    async def create(partitions: int) -> str:
        name = f"calls-{next(_NUMBERS)}"
        await admin.create_topics([NewTopic(name, partitions, 1)])
        async with asyncio.timeout(30):
            # A client that asks a moment too early asks again in half a minute.
            while name not in await admin.list_topics():  # noqa: ASYNC110 - a server's state
                await asyncio.sleep(0.05)
        return name

    try:
        yield create
    finally:
        await admin.close()
