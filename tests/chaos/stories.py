"""What is done to the workers, scenario by scenario; `tests/scenarios/` has the short versions.

Each story breaks something in an arena so many times, mends it, and notes how long it takes
until the group has caught up. What must hold afterwards is the same for all of them, and is
judged by the arena. A story's own promises are asserted in it.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple
from unittest.mock import patch

import asyncpg

from consumer import schema
from tests.chaos.arena import Arena, ArenaOptions
from tests.chaos.load import LoadOptions
from tests.chaos.servers import ROLE
from tests.processes import EXIT_SECONDS_MAX, WorkerProcess, start_worker
from tests.proxy import Cuts, Fault

JUMPING: Final = ArenaOptions(settings={"PYTHONPATH": str(Path(__file__).parent / "clock")})
"""Workers whose clock jumps by hours every two seconds."""
BY_PATTERN: Final = ArenaOptions(by_pattern=True)

# Workers -------------------------------------------------------------------------------------


async def killed(arena: Arena, rounds: int) -> None:
    """SIGKILL a random worker, start another."""
    for _ in range(rounds):
        await asyncio.sleep(arena.rng.uniform(0.2, 1.0))
        await arena.lose(arena.rng.choice(arena.workers))
        await arena.add_worker()
        await arena.recovered()


async def terminated(arena: Arena, rounds: int) -> None:
    """SIGTERM a random worker, start another: in time, and no record is delivered twice."""
    duplicates = 0.0
    for _ in range(rounds):
        await asyncio.sleep(arena.rng.uniform(0.2, 1.0))
        leaving = arena.rng.choice(arena.workers)
        duplicates += _duplicates(await leaving.metrics())
        started = time.monotonic()
        assert await arena.retire(leaving) == 0
        seconds = time.monotonic() - started
        arena.facts["exit seconds"] = max(arena.facts.get("exit seconds", 0.0), seconds)
        await arena.add_worker()
        await arena.recovered()
    for worker in arena.workers:
        duplicates += _duplicates(await worker.metrics())
    arena.facts["delivered twice"] = duplicates
    assert duplicates == 0, arena.facts
    assert arena.facts["exit seconds"] < EXIT_SECONDS_MAX, arena.facts


def _duplicates(metrics: dict[str, float]) -> float:
    return metrics.get('windsor_calls_stored_total{outcome="duplicate"}', 0.0)


def zombie(seconds: float) -> "Play":
    """A worker stands still until the group has given it up, then goes on where it was."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(arena.rng.uniform(0.2, 1.0))
            undead = arena.rng.choice(arena.workers)
            os.kill(undead.pid, signal.SIGSTOP)
            try:
                await arena.watch(seconds)
            finally:
                os.kill(undead.pid, signal.SIGCONT)
            await arena.recovered()

            async def has_partitions(worker: WorkerProcess = undead) -> bool:
                metrics = await worker.metrics()
                return worker.events.count("partitions.revoked") > 1 and bool(
                    metrics.get("windsor_partitions_assigned", 0)
                )

            arena.facts["rejoined after"] = await arena.until(has_partitions, 60)
            await arena.watch(1)
        assert arena.rewinds == 0

    return play


async def storm(arena: Arena, rounds: int) -> None:
    """Workers join and leave every two seconds."""
    for _ in range(rounds):
        change = asyncio.create_task(_come_or_go(arena))
        await asyncio.sleep(2)
        await change
    await arena.recovered()


async def _come_or_go(arena: Arena) -> None:
    if len(arena.workers) < 2 or (len(arena.workers) < 4 and arena.rng.random() < 0.5):
        await arena.add_worker()
    else:
        assert await arena.retire(arena.rng.choice(arena.workers)) == 0


async def clock_jumps(arena: Arena, rounds: int) -> None:
    """Nothing is done but to look at workers whose clocks jump."""
    for _ in range(rounds):
        await asyncio.sleep(2)
        await arena.recovered()


# Postgres ------------------------------------------------------------------------------------


@asynccontextmanager
async def _same_members(arena: Arena) -> AsyncIterator[None]:
    """Whatever happens inside, it is no matter of the group's, nor of dead letters."""
    before = await arena.total("windsor_rebalances_total")
    yield
    await arena.recovered()
    ready = [await worker.until_ready(15) for worker in arena.workers]
    slowest = max([arena.facts.get("ready after", 0.0), *ready])
    arena.facts["ready after"] = slowest
    rebalances = await arena.total("windsor_rebalances_total") - before
    letters = await arena.total("windsor_dead_letters_total")
    assert (rebalances, letters) == (0, 0), (rebalances, letters)


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


def postgres_away(seconds: float) -> "Play":
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


# Kafka ---------------------------------------------------------------------------------------


async def broker_restarted(arena: Arena, rounds: int) -> None:
    """Stopped in an orderly way or killed, and started again."""
    for number in range(rounds):
        kafka = arena.servers.kafka
        await asyncio.to_thread(kafka.kill if number % 2 else kafka.stop)
        await asyncio.sleep(arena.rng.uniform(0.5, 2.0))
        await asyncio.to_thread(kafka.start)
        await arena.recovered()


def broker_frozen(seconds: float) -> "Play":
    """The broker answers nothing for a while, its connections open."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            os.kill(arena.servers.kafka.pid, signal.SIGSTOP)
            try:
                # One that is told to leave meanwhile does.
                await asyncio.sleep(seconds / 2)
                started = time.monotonic()
                assert await arena.retire(arena.rng.choice(arena.workers)) == 0
                arena.facts["exit seconds while frozen"] = time.monotonic() - started
                await asyncio.sleep(max(0.0, seconds / 2 - (time.monotonic() - started)))
            finally:
                os.kill(arena.servers.kafka.pid, signal.SIGCONT)
            await arena.recovered()
            await arena.add_worker()

    return play


def broker_away(seconds: float) -> "Play":
    """The broker is not there for a while."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.to_thread(arena.servers.kafka.stop)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(arena.servers.kafka.start)
            await arena.recovered()

    return play


async def topics_change(arena: Arena, rounds: int) -> None:
    """Partitions are added, topics match the pattern anew, and one is deleted and made again."""
    first = arena.load.topic
    for number in range(rounds):
        partitions = 4 + 2 * (number + 1)
        await arena.grow_topic(first, partitions)
        await arena.load.aim(first, partitions)
        await asyncio.sleep(1)
        await arena.recovered()
        fresh = f"{first}-{number}"
        await arena.create_topic(fresh, 2)
        await arena.load.aim(fresh, 2)
        await asyncio.sleep(1)
        await arena.recovered()
        # Nothing of a deleted topic may be missed that was not read before.
        await arena.load.stop()
        await arena.caught_up()
        await arena.delete_topic(fresh)
        await arena.create_topic(fresh, 2)
        await arena.load.aim(fresh, 2)
        await asyncio.sleep(1)
        await arena.recovered()
        await arena.load.aim(first, partitions)


# The network ---------------------------------------------------------------------------------


def network_fails(side: str, seconds: float, faults: tuple[Fault, ...] = ()) -> "Play":
    """Each way in which a network fails, on the way to Kafka or to Postgres."""

    async def play(arena: Arena, rounds: int) -> None:
        proxy = getattr(arena.network, side)
        for _ in range(rounds):
            for fault in faults or tuple(Fault)[1:]:
                proxy.fail(fault)
                await asyncio.sleep(seconds)
                proxy.mend()
                await arena.recovered()
                arena.facts[fault.value] = max(
                    arena.facts.get(fault.value, 0.0), arena.recovery_seconds[-1]
                )

    return play


# Load ----------------------------------------------------------------------------------------


async def contended(arena: Arena, rounds: int) -> None:
    """All workers merge the same few users, round after round of a second."""
    for _ in range(rounds):
        await asyncio.sleep(1)
        await arena.recovered()
    dsn = arena.servers.postgres.direct(arena.database_name)
    connection = await asyncpg.connect(dsn)
    try:
        arena.facts["deadlocks"] = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()
    arena.facts["retries"] = await arena.total("windsor_retries_total")
    assert arena.facts["retries"] == 0


async def soak(arena: Arena, rounds: int) -> None:
    """A kill a minute; one worker is spared, and watched for what it does not give back."""
    spared = arena.workers[0]
    samples: list[tuple[float, int]] = []
    files: list[int] = []
    for _ in range(rounds):
        victim = arena.rng.choice(arena.workers[1:])
        await arena.lose(victim)
        await arena.add_worker()
        await arena.recovered()
        for _ in range(12):
            await asyncio.sleep(5)
            samples.append((time.monotonic() / 3600, spared.rss_bytes()))
            files.append(spared.files_count())
    # The first half is the warm-up: allocators and caches fill.
    settled = samples[len(samples) // 2 :]
    arena.facts["MB an hour"] = slope(settled) / 1e6
    arena.facts["files grown"] = files[-1] - files[len(files) // 2]


def slope(samples: list[tuple[float, int]]) -> float:
    """Least squares: units of the second by units of the first."""
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    over = sum((x - mean_x) * (y - mean_y) for x, y in samples)
    return over / (sum((x - mean_x) ** 2 for x, _ in samples) or 1.0)


Play = Callable[[Arena, int], Awaitable[None]]


class Scenario(NamedTuple):
    """One line of the scoreboard."""

    name: str
    play: Play
    rounds: int
    """At full size."""
    options: ArenaOptions = ArenaOptions()
    recovery_seconds_max: float = 30.0
    own_postgres: bool = False
    """It leaves the server in pieces."""


def _with(**settings: str) -> ArenaOptions:
    return ArenaOptions(settings=settings)


_THREE: Final = ArenaOptions(workers=3)
_EIGHT: Final = ArenaOptions(8, 8, LoadOptions(300, users=12, merges=0.5))


def _poisoned(share: float) -> ArenaOptions:
    return ArenaOptions(load=LoadOptions(poison=share), settings={"dead_letters_share_max": "1"})


SCOREBOARD: Final = [
    Scenario("kill -9 of a worker", killed, 200, _THREE),
    Scenario("SIGTERM of a worker", terminated, 100, _THREE),
    Scenario("SIGSTOP for 60 s", zombie(60), 3, _with(kafka_session_timeout_seconds="45")),
    Scenario("rebalance storm", storm, 150, recovery_seconds_max=10),
    Scenario("Postgres restarted", postgres_restarted, 10, recovery_seconds_max=15),
    Scenario("Postgres killed", postgres_killed, 10, recovery_seconds_max=15),
    Scenario("Postgres promoted", postgres_promoted, 1, recovery_seconds_max=15, own_postgres=True),
    Scenario("Postgres read-only", postgres_read_only, 10, recovery_seconds_max=15),
    Scenario("out of connections", postgres_out_of_connections, 10, recovery_seconds_max=15),
    Scenario("disk full", postgres_disk_full, 10, recovery_seconds_max=15),
    Scenario("Postgres away for 15 minutes", postgres_away(900), 1),
    Scenario("cut in COMMIT", commit_cut, 500),
    Scenario("migrations under load", migrated, 20),
    Scenario("broker restarted", broker_restarted, 10),
    Scenario("broker frozen for 90 s", broker_frozen(90), 2, _THREE),
    Scenario("broker away for 5 minutes", broker_away(300), 1),
    Scenario("network to Postgres", network_fails("postgres", 10), 3),
    Scenario("network to Kafka", network_fails("kafka", 10), 3),
    Scenario("merges from 8 workers", contended, 60, _EIGHT),
    Scenario("topics change", topics_change, 5, BY_PATTERN),
    Scenario("clock jumps", clock_jumps, 30, JUMPING),
    Scenario("poison at 1 %", killed, 20, _poisoned(0.01)),
    Scenario("poison at 50 %", killed, 20, _poisoned(0.5)),
    Scenario("poison at 100 %", killed, 20, _poisoned(1.0)),
    Scenario("soak", soak, 60, _THREE),
]
