"""Postgres dies, fails, stands still, is cut off in the middle of COMMIT, and migrated."""

import asyncio
import http
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from unittest.mock import patch

import asyncpg

from consumer import schema
from tests.chaos.arena import Arena
from tests.chaos.scenario import Play
from tests.chaos.servers import ROLE
from tests.processes import start_worker
from tests.proxy import Cuts


@asynccontextmanager
async def _same_members(arena: Arena) -> AsyncIterator[None]:
    """Whatever happens inside, it is no matter of the group's, and only poison is set aside.

    The fault ends where the body does: from there on the workers have 15 s to be ready for good.
    """
    before = await arena.total("windsor_rebalances_total")
    yield
    async with asyncio.TaskGroup() as group:
        recovering = group.create_task(arena.recovered())
        readying = group.create_task(_ready_for_good(arena, recovering))
    ready = readying.result()
    arena.facts["ready after"] = max(arena.facts.get("ready after", 0.0), ready)
    rebalances = await arena.total("windsor_rebalances_total") - before
    letters = await arena.total("windsor_dead_letters_total", but='reason="malformed_json"')
    assert (rebalances, letters) == (0, 0), (rebalances, letters)


_READY_SECONDS_MAX: Final = 15


async def _ready_for_good(arena: Arena, recovering: "asyncio.Task[None]") -> float:
    """Give how long it takes from now until no worker is unready any more.

    Until the group has recovered a worker may only not have noticed yet.
    """
    started = time.monotonic()
    unready_seconds = 0.0
    while True:
        recovered = recovering.done()
        answers = await asyncio.gather(*(worker.fetch("/readyz") for worker in arena.workers))
        if any(status != http.HTTPStatus.OK for status, _ in answers):
            unready_seconds = time.monotonic() - started
            assert unready_seconds <= _READY_SECONDS_MAX, answers
        elif recovered:
            return unready_seconds
        await asyncio.sleep(0.1)


async def postgres_restarted(arena: Arena, rounds: int) -> None:
    """Stopped in an orderly way, and started again after a while."""
    for _ in range(rounds):
        async with _same_members(arena):
            await _without_postgres(arena, arena.rng.uniform(0.5, 2.0))


async def _without_postgres(arena: Arena, seconds: float) -> None:
    await asyncio.to_thread(arena.servers.postgres.stop)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(arena.servers.postgres.start)


async def postgres_killed(arena: Arena, rounds: int) -> None:
    """SIGKILL: of the whole server, or of one backend, after which it recovers by itself."""
    for number in range(rounds):
        async with _same_members(arena):
            if number % 2:
                arena.servers.postgres.crash_backend()
            else:
                await asyncio.to_thread(arena.servers.postgres.kill)
                await asyncio.to_thread(arena.servers.postgres.start)


async def postgres_promoted(arena: Arena, rounds: int) -> None:
    """The primary dies, its standby is promoted, and the name leads there."""
    del rounds  # There is one standby.
    primary = arena.servers.postgres
    standby = await asyncio.to_thread(
        primary.make_standby, arena.servers.folder / f"{arena.database_name}-standby"
    )
    await _execute(primary.dsn, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    await _execute(primary.dsn, "SELECT pg_reload_conf()")
    await arena.caught_up()
    async with _same_members(arena):
        await asyncio.to_thread(primary.kill)
        # A standby that the name leads to too early takes no writes.
        arena.network.postgres.server = standby.address
        await asyncio.sleep(1)
        await _execute(standby.dsn, "SELECT pg_promote()")
        arena.servers = arena.servers._replace(postgres=standby)


async def postgres_read_only(arena: Arena, rounds: int) -> None:
    """Every transaction is read-only for a while, on the connections that there are too."""
    for _ in range(rounds):
        async with _same_members(arena):
            await _setting(arena, "default_transaction_read_only = on")
            await asyncio.sleep(arena.rng.uniform(1.0, 3.0))
            await _setting(arena, "default_transaction_read_only = off")


async def postgres_out_of_connections(arena: Arena, rounds: int) -> None:
    """The workers' connections are ended, and for a while they get no others."""
    for _ in range(rounds):
        async with _same_members(arena):
            await _limit_connections(arena, 0)
            await asyncio.sleep(arena.rng.uniform(1.0, 3.0))
            await _limit_connections(arena, -1)


async def _limit_connections(arena: Arena, count: int) -> None:
    dsn = arena.servers.postgres.dsn
    await _execute(dsn, f"ALTER ROLE {ROLE} CONNECTION LIMIT {count}")
    if count == 0:
        await _execute(
            dsn, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
        )


_DISK_FULL = """
CREATE OR REPLACE FUNCTION public.disk_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$;
DO $$ DECLARE logged regclass; BEGIN
    FOR logged IN SELECT oid FROM pg_class WHERE relkind = 'p' AND
        relnamespace = 'windsor_private'::regnamespace
    LOOP
        EXECUTE format('CREATE TRIGGER disk_full BEFORE INSERT ON %s EXECUTE FUNCTION'
            ' public.disk_full()', logged);
    END LOOP;
END $$;
"""


async def postgres_disk_full(arena: Arena, rounds: int) -> None:
    """Every write of calls fails for a while with the error of a full disk (53100)."""
    dsn = arena.servers.postgres.direct(arena.database_name)
    for _ in range(rounds):
        async with _same_members(arena):
            await _execute(dsn, _DISK_FULL)
            await asyncio.sleep(arena.rng.uniform(1.0, 3.0))
            await _execute(dsn, "DROP FUNCTION public.disk_full CASCADE")


def postgres_away(seconds: float) -> Play:
    """Long enough away that a worker that does not poll would be put out of its group."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            async with _same_members(arena):
                await asyncio.to_thread(arena.servers.postgres.stop)
                # Lanes fill, then partitions are paused.
                await asyncio.sleep(seconds / 3)
                before = [worker.rss_bytes() for worker in arena.workers]
                await asyncio.sleep(2 * seconds / 3)
                grown = [w.rss_bytes() - b for w, b in zip(arena.workers, before, strict=True)]
                arena.facts["memory grown MB"] = max(grown) / 1e6
                assert max(grown) < 8e6
                await asyncio.to_thread(arena.servers.postgres.start)

    return play


def postgres_frozen(seconds: float) -> Play:
    """Postgres answers nothing for a while, its connections open; a worker is told to leave."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            with arena.servers.postgres.frozen():
                # Its batches are under way by then, and their answers do not come.
                await asyncio.sleep(seconds / 4)
                started = time.monotonic()
                assert await arena.retire(arena.rng.choice(arena.workers)) == 0
                took = time.monotonic() - started
                longest = max(arena.facts.get("exit seconds while frozen", 0.0), took)
                arena.facts["exit seconds while frozen"] = longest
                await asyncio.sleep(max(0.0, 3 * seconds / 4 - took))
            await arena.recovered()
            await arena.add_worker()

    return play


async def _setting(arena: Arena, setting: str) -> None:
    """Change a setting of the database for connections that there are, too."""
    dsn = arena.servers.postgres.dsn
    await _execute(dsn, f"ALTER SYSTEM SET {setting}")
    await _execute(dsn, "SELECT pg_reload_conf()")


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(
        dsn, server_settings={"default_transaction_read_only": "off"}
    )
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def commit_cut(arena: Arena, rounds: int) -> None:
    """Connections are cut before, in the middle of, and after COMMIT."""
    arena.network.postgres.cuts = cuts = Cuts(arena.rng, 0.3)

    async def enough() -> bool:
        return cuts.count >= rounds

    await arena.until(enough, 60 + rounds)
    arena.network.postgres.cuts = None
    await arena.recovered()
    arena.rounds = cuts.count
    arena.facts |= {"before": cuts.before, "during": cuts.during, "after": cuts.after}


_LATER: Final = 9_999


async def migrated(arena: Arena, rounds: int) -> None:
    """Migrations that need the log's table for themselves, while workers of before write."""
    shipped = schema.migrations()
    for number in range(rounds):
        column = f"ALTER TABLE windsor_private.calls ADD COLUMN later_{number} bigint"
        later = schema.Migration(_LATER + number, f"{_LATER + number}_later", column)
        with patch.object(schema, "migrations", lambda later=later: [*shipped, later]):
            started = time.monotonic()
            assert await schema.migrate(arena.dsn) == [later.name]
            arena.facts["migrated after"] = time.monotonic() - started
        await arena.recovered()
    # One of the version before that is started now refuses to run.
    kafka = arena.servers.kafka.bootstrap_servers
    late = await start_worker(kafka, arena.topics, arena.dsn)
    try:
        assert await late.ended(30) == 1
    finally:
        await late.close()
    knows = f"this worker knows {shipped[-1].version}: run the newer windsor"
    last = _LATER + rounds - 1
    assert late.said == [f"windsor: the database's schema is version {last}, {knows}"]
    await _execute(
        arena.servers.postgres.direct(arena.database_name),
        f"DELETE FROM windsor_private.migrations WHERE version >= {_LATER}",
    )
