"""The roles of deploy/roles.sql on a real Postgres: what each may do, and nothing else."""

import itertools
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from consumer.retention import UpkeepOptions, keep_up
from consumer.verify import verify_database
from demo.story import story
from tests.command import windsor
from tests.conftest import in_database
from tests.probes import consuming, settings_for, until_answered
from tests.servers import psql
from tests.test_retention import NOW_US, RETENTION_DAYS, Pruned, write
from tests.test_retention import decoded as calls_of
from tests.test_retention import story as weeks
from tests.views import stored_views
from tests.worker import until_consumed, working

ROLES_SQL: Final = Path(__file__).parents[1] / "deploy" / "roles.sql"
PASSWORDS: Final = {
    f"{role.upper()}_PASSWORD": f"{role} of a test"
    for role in ("migrator", "worker", "dashboard", "reader")
}
_NUMBERS = itertools.count(os.getpid())


class Roles(NamedTuple):
    """The address of one database for each role."""

    admin: str
    migrator: str
    worker: str
    dashboard: str
    reader: str


def as_role(dsn: str, role: str) -> str:
    """The same database, for another login."""
    password = PASSWORDS[f"{role.upper()}_PASSWORD"].replace(" ", "%20")
    return re.sub(r"//[^/@]*@", f"//windsor_{role}:{password}@", dsn, count=1)


def make_roles(admin: str) -> None:
    psql(admin, ROLES_SQL, **PASSWORDS)


@asynccontextmanager
async def empty_database(server: str) -> AsyncIterator[Roles]:
    """A database with the roles, before the first migration."""
    name = f"windsor_roles_{next(_NUMBERS)}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        admin = in_database(server, name)
        make_roles(admin)
        yield Roles(admin, *(as_role(admin, role) for role in Roles._fields[1:]))
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def roles(postgres_server: str) -> AsyncIterator[Roles]:
    """A database as an operator sets it up: the roles, then the schema by its owner."""
    async with empty_database(postgres_server) as roles:
        ran = await windsor("migrate", database_url=roles.migrator)
        assert (ran.exit_code, ran.err) == (0, "")
        yield roles


async def execute(dsn: str, statement: str, *arguments: object) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.execute(statement, *arguments)
    finally:
        await connection.close()


# What each may do -------------------------------------------------------------------------------


async def test_worker_applies_the_whole_story_under_its_own_role(
    kafka_server: str, roles: Roles, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_server)
    await producer.start()
    try:
        for record in story():
            await producer.send(
                name, record.value, key=record.key, timestamp_ms=record.timestamp_ms, partition=0
            )
    finally:
        await producer.stop()

    for group, dsn in (("owner", database), ("worker", roles.worker)):
        async with working(kafka_server, name, dsn, group):
            await until_consumed(kafka_server, name, group=group)

    stored = await stored_views(roles.reader)
    assert stored == await stored_views(database)
    assert len(stored["users"]) > 100
    assert len(stored["merges"]) > 0
    report = await verify_database(roles.migrator)
    assert report.differences == 0


async def test_worker_prunes_and_makes_weeks_under_its_own_role(roles: Roles) -> None:
    await write(roles.worker, calls_of(weeks(400, 20)))
    before = await stored_views(roles.reader)
    pruned = Pruned()

    done = await keep_up(UpkeepOptions(roles.worker, RETENTION_DAYS), NOW_US, pruned)

    after = await stored_views(roles.reader)
    assert done
    assert 0 < sum(pruned.calls) == len(before["feed"]) - len(after["feed"])
    assert {**after, "feed": []} == {**before, "feed": []}
    # What was made anew is the migrator's, as the rest is.
    connection = await asyncpg.connect(roles.admin)
    owners = await connection.fetch(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relnamespace = 'windsor_private'::regnamespace"
    )
    await connection.close()
    assert [owner for (owner,) in owners] == ["windsor_migrator"]


async def test_pruning_waits_for_another_roles_snapshot(roles: Roles) -> None:
    reading = await asyncpg.connect(roles.reader)
    connection = await asyncpg.connect(roles.worker)
    try:
        async with reading.transaction(isolation="repeatable_read"):
            await reading.fetchval("SELECT count(*) FROM windsor.users")
            mark = await connection.fetchval("SELECT pg_current_xact_id()::xid::text")
            question = "SELECT windsor_private.has_older_snapshots($1::text::xid)"
            assert await connection.fetchval(question, mark) is True
        assert await connection.fetchval(question, mark) is False
    finally:
        await reading.close()
        await connection.close()


@pytest.mark.parametrize("role", ["dashboard", "reader", "worker"])
async def test_every_role_reads_the_public_views(roles: Roles, role: str) -> None:
    views = await stored_views(getattr(roles, role))

    assert all(rows == [] for rows in views.values())


async def test_dashboard_marks_dead_letters(roles: Roles) -> None:
    await execute(
        roles.worker,
        "INSERT INTO windsor_private.dead_letters"
        ' (topic, partition, "offset", position, reason, detail, value_hash)'
        " VALUES ('t', 0, 0, 0, 'blocked_id', 'none', '')",
    )

    ran = await windsor("dead-letters", "discard", "--open", database_url=roles.dashboard)

    assert (ran.exit_code, ran.err) == (0, "")
    assert await execute(roles.reader, "SELECT FROM windsor.dead_letters") == "SELECT 1"


async def test_dashboard_makes_tokens_and_hides_names(roles: Roles) -> None:
    made = await windsor("sources", "add", "website", database_url=roles.dashboard)
    assert made.exit_code == 0, made.err
    gone = await windsor("sources", "revoke", "website", database_url=roles.dashboard)
    assert gone.exit_code == 0, gone.err
    for statement in (
        "INSERT INTO windsor_private.hidden_names (name) VALUES ('Feature Used')",
        "DELETE FROM windsor_private.hidden_names",
        "SELECT FROM windsor_dashboard.calls, windsor_dashboard.users",
    ):
        await execute(roles.dashboard, statement)


@pytest.mark.parametrize("command", [["status"], ["dead-letters", "list"]])
async def test_worker_runs_the_commands_of_an_operator_in_its_pod(
    roles: Roles, command: list[str]
) -> None:
    ran = await windsor(*command, database_url=roles.worker)

    assert ran.exit_code == 0, ran.err


# And what not -----------------------------------------------------------------------------------

REFUSED: Final = {
    "worker": [
        # History is written once.
        "UPDATE windsor_private.calls SET name = 'other'",
        "DELETE FROM windsor_private.calls",
        "TRUNCATE windsor_private.calls",
        "UPDATE windsor_private.aliases SET undone_at = now()",
        "UPDATE windsor_private.history SET epoch = 1",
        "DELETE FROM windsor_private.identities",
        "DELETE FROM windsor_private.dead_letters",
        "UPDATE windsor_private.dead_letters SET value = ''",
        "UPDATE windsor_private.migrations SET version = 9",
        "UPDATE windsor_private.calls_bounds SET pruned_before = now()",
        "DROP TABLE windsor_private.calls",
        "ALTER TABLE windsor_private.users ADD COLUMN other text",
        "SELECT FROM windsor_private.sources",
        "INSERT INTO windsor_private.hidden_names (name) VALUES ('E')",
        "CREATE TABLE windsor_private.other ()",
        "CREATE TABLE windsor.other ()",
        "CREATE SCHEMA other",
        "CREATE TEMPORARY TABLE other ()",
        "CREATE ROLE other",
        "SET ROLE windsor_migrator",
    ],
    "dashboard": [
        "SELECT FROM windsor_private.calls",
        "SELECT FROM windsor_private.identities",
        "SELECT FROM windsor_private.users",
        "INSERT INTO windsor_private.users (id, identities_count, user_id) VALUES (1, 1, 'u')",
        "UPDATE windsor.dead_letters SET detail = 'other'",
        "UPDATE windsor_private.dead_letters SET value = ''",
        "DELETE FROM windsor_private.dead_letters",
        "DELETE FROM windsor_private.sources",
        "UPDATE windsor_private.sources SET token_hash = ''",
        "UPDATE windsor_dashboard.users SET user_id = 'other'",
        "SELECT windsor_private.ensure_week('2026-11-02')",
        "SELECT windsor_private.abandon_prunings()",
        "SELECT nextval('windsor_private.identities_id_seq')",
        "CREATE TABLE windsor.other ()",
        "SET ROLE windsor_worker",
    ],
    "reader": [
        "SELECT FROM windsor_private.calls",
        "SELECT FROM windsor_private.dead_letters",
        "SELECT FROM windsor_dashboard.calls",
        "SELECT windsor_private.ensure_week('2026-11-02')",
        "SET transaction_read_only = off; UPDATE windsor.dead_letters SET detail = 'other'",
        "SET transaction_read_only = off; DELETE FROM windsor.users",
        "SET transaction_read_only = off; CREATE TABLE windsor.other ()",
        "SET ROLE windsor_dashboard",
    ],
    "migrator": [
        "CREATE ROLE other",
        "CREATE DATABASE other",
        "SELECT pg_read_file('/etc/passwd')",
    ],
}


@pytest.mark.parametrize("role", REFUSED)
async def test_role_is_refused_what_is_not_its_own(roles: Roles, role: str) -> None:
    allowed = []
    for statement in REFUSED[role]:
        try:
            await execute(getattr(roles, role), statement)
        except asyncpg.InsufficientPrivilegeError:
            continue
        allowed.append(statement)

    assert allowed == []


async def test_nobody_else_may_connect(roles: Roles) -> None:
    await execute(roles.admin, "CREATE ROLE windsor_stranger LOGIN PASSWORD 'worker of a test'")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="CONNECT"):
            await asyncpg.connect(roles.worker.replace("windsor_worker", "windsor_stranger"))
    finally:
        await execute(roles.admin, "DROP ROLE windsor_stranger")


# How it is set up -------------------------------------------------------------------------------


async def test_again_does_no_harm_and_takes_back_what_somebody_gave(roles: Roles) -> None:
    await execute(roles.migrator, "GRANT DELETE ON windsor_private.calls TO windsor_worker")
    assert await execute(roles.worker, "DELETE FROM windsor_private.calls") == "DELETE 0"

    make_roles(roles.admin)
    ran = await windsor("migrate", database_url=roles.migrator)

    assert (ran.exit_code, ran.out, ran.err) == (0, "nothing to apply\n", "")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(roles.worker, "DELETE FROM windsor_private.calls")
    assert await execute(roles.worker, "SELECT FROM windsor_private.calls") == "SELECT 0"


async def test_worker_before_the_migration_waits_and_says_for_what(
    kafka_server: str, postgres_server: str
) -> None:
    async with empty_database(postgres_server) as roles:
        await windsor("migrate", database_url=roles.migrator)
        await execute(
            roles.migrator, "REVOKE SELECT ON windsor_private.migrations FROM windsor_worker"
        )
        async with consuming(settings_for(kafka_server, "calls", roles.worker)) as client:
            line = (
                "waiting for the database: Postgres denies us a right: permission denied for table"
                " migrations: deploy/roles.sql says which role may do what, and `windsor migrate`"
                " grants it"
            )
            await until_answered(client, "/readyz", (503, line))
            # It goes on by itself.
            await windsor("migrate", database_url=roles.migrator)
            await until_answered(client, "/readyz", (200, "ok"))


async def test_migration_by_another_role_is_one_line(roles: Roles) -> None:
    ran = await windsor("migrate", database_url=roles.worker)

    assert ran.exit_code == 1
    assert ran.err == (
        "windsor: Postgres denies us a right: permission denied for database"
        f" {roles.admin.partition('?')[0].rpartition('/')[2]}: deploy/roles.sql says which role may"
        " do what, and `windsor migrate` grants it\n"
    )
