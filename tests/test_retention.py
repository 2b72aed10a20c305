"""Retention: old weeks lose their events and nothing else, while workers go on writing."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
import structlog
from hypothesis import given, settings
from prometheus_client import CollectorRegistry

from consumer import app
from consumer.core.call import Call
from consumer.core.decode import Decoder
from consumer.core.policy import RetryPolicy, expired_before
from consumer.errors import TransientSinkError
from consumer.metrics import Metrics
from consumer.ports import Batch
from consumer.postgres import PostgresOptions, open_sink
from consumer.retention import Pruning, UpkeepOptions, keep_up
from consumer.settings import Settings
from consumer.sql import load_queries
from consumer.verify import verify_database
from tests.core.calls import START_US
from tests.core.calls import call as hand_made
from tests.model import Views, model_of
from tests.probes import consuming
from tests.views import stored_views
from tests.worlds import WORLDS, records_of

DAY_US = 86_400_000_000
WEEK_US = 7 * DAY_US
# 2026-10-05T00:00:00Z, a Monday: the first week of all worlds.
MONDAY_US = 1_791_158_400_000_000
# A week and a day after the week is over, it goes.
RETENTION_DAYS = 7
NOW_US = MONDAY_US + 2 * WEEK_US + DAY_US

CLEAN = dict.fromkeys(
    ("identities", "members", "users", "seen", "groups", "audiences", "aliases"), 0
)
_EMPTY = """
TRUNCATE windsor_private.calls, windsor_private.identities, windsor_private.members,
windsor_private.seen, windsor_private.users, windsor_private.aliases, windsor_private.groups,
windsor_private.audiences;
UPDATE windsor_private.calls_bounds SET pruned_before = NULL
"""
_LEFT_BEHIND = """
SELECT count(*) FROM pg_class
WHERE relnamespace = 'windsor_private'::regnamespace AND relkind = 'r' AND relname LIKE '%_pruned'
"""


class Pruned:
    """Notes what the upkeep tells."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def week_pruned(self, calls: int) -> None:
        self.calls.append(calls)


async def prune(dsn: str, now_us: int = NOW_US, **options: Any) -> list[int] | None:  # noqa: ANN401 - options of all types
    """One turn of the upkeep: the calls dropped by week, None if another is at it."""
    given_ = {
        "retention_days": RETENTION_DAYS,
        # Steps as small as can be.
        "blocks_max": 1,
        "retry": RetryPolicy(0.05, 1.0, 0.05),
        **options,
    }
    pruned = Pruned()
    done = await keep_up(UpkeepOptions(dsn, **given_), now_us, pruned)
    return pruned.calls if done else None


def once(call: Call) -> tuple[int, bytes]:
    """What a call is stored once by: its week and message id."""
    return (call.clock.at - MONDAY_US) // WEEK_US, call.message_key


def decoded(world: Sequence[dict[str, Any]], now_us: int | None = None) -> list[Call]:
    """The calls of a world, one of each message id; as of a time those not expired."""
    expired = None if now_us is None else expired_before(now_us, RETENTION_DAYS)
    found: dict[tuple[int, bytes], Call] = {}
    for record in records_of(world):
        for call in Decoder().decode(record, expired):
            if isinstance(call, Call):
                found.setdefault(once(call), call)
    return list(found.values())


def without_expired(views: Views, before_us: int = MONDAY_US + WEEK_US) -> Views:
    """The same views with less in the feed."""
    return {**views, "feed": [row for row in views["feed"] if row["occurred_at"] >= before_us]}


async def write(dsn: str, calls: Sequence[Call]) -> None:
    async with open_sink(PostgresOptions(dsn)) as sink:
        for first in range(0, len(calls), 500):
            await sink.write(Batch(calls[first : first + 500], []))


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        yield connection
    finally:
        await connection.close()


async def value(dsn: str, question: str) -> Any:  # noqa: ANN401 - the question's own
    async with connected(dsn) as connection:
        return await connection.fetchval(question)


async def execute(dsn: str, statements: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute(statements)


def days_in(day: int, second: int = 0) -> str:
    """A timestamp so many days after the first Monday."""
    at = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    month, date = (10, 5 + day) if day < 27 else (11, day - 26)
    return f"2026-{month:02}-{date:02}T{at}Z"


def story(count: int, days: int = 6) -> list[dict[str, Any]]:
    """Calls of all types over some days, with something to them."""
    rng = random.Random(7)
    calls = []
    for number in range(count):
        user = f"u{rng.randrange(40)}"
        call: dict[str, Any] = {
            "type": rng.choice(["track", "track", "page", "screen", "identify", "group", "alias"]),
            "messageId": f"m{number}",
            "timestamp": days_in(rng.randrange(days), rng.randrange(86_400)),
            "userId": user,
            "anonymousId": f"v{rng.randrange(60)}",
            "event": "Feature Used",
            "groupId": f"g{rng.randrange(5)}",
            "previousId": f"u{rng.randrange(40)}" if rng.random() < 0.3 else user,
            "traits": {"plan": rng.randrange(9), "padding": "x" * 200},
        }
        calls.append(call)
    return calls


# What is kept ----------------------------------------------------------------------------------


async def check(dsn: str, world: list[dict[str, Any]], again: list[dict[str, Any]]) -> None:
    await execute(dsn, _EMPTY)
    calls = decoded(world)
    await write(dsn, calls)
    await prune(dsn)
    assert await stored_views(dsn) == without_expired(model_of(calls))
    assert (await verify_database(dsn)).rows == CLEAN

    # All of it is delivered again, and more of the same weeks: what was dropped stays away.
    keys = {once(call) for call in calls}
    later = [call for call in decoded(again, NOW_US) if once(call) not in keys]
    # Of deliveries that differ under one message id the first stored stays, as long as it does.
    first = {call.record.offset for call in calls}
    same = [call for call in decoded(world, NOW_US) if call.record.offset in first]
    await write(dsn, [*same, *later])
    assert await prune(dsn) == []
    assert await stored_views(dsn) == without_expired(model_of([*calls, *later]))
    assert (await verify_database(dsn)).rows == CLEAN


def test_views_but_the_feed_are_the_models_and_verify_is_clean(database: str) -> None:
    @settings(max_examples=40)
    @given(WORLDS, WORLDS)
    def run(world: list[dict[str, Any]], again: list[dict[str, Any]]) -> None:
        asyncio.run(check(database, world, again))

    run()


async def test_weeks_go_oldest_first_and_the_bound_moves(database: str) -> None:
    calls = decoded(story(300, days=28))
    events = [call for call in calls if call.type in ("track", "page", "screen")]
    by_week = [
        sum((call.clock.at - MONDAY_US) // WEEK_US == week for call in events) for week in range(4)
    ]
    await write(database, calls)

    assert await prune(database, NOW_US - 1) == [0], "the oldest partition alone, which is empty"
    assert await prune(database, NOW_US + 2 * WEEK_US) == by_week[:3]
    bound = await value(database, "SELECT pruned_before::text FROM windsor_private.calls_bounds")
    assert bound == "2026-10-26"
    views = await stored_views(database)
    assert len(views["feed"]) == by_week[3] > 0
    assert views == without_expired(model_of(calls), MONDAY_US + 3 * WEEK_US)


async def test_partition_of_everything_very_old_is_pruned_up_to_the_cutoff(database: str) -> None:
    world = [
        {**call, "timestamp": f"{year}-11-02T00:00:00Z", "messageId": f"{year}-{number}"}
        for year in (2005, 2014)
        for number, call in enumerate(story(60))
    ]
    calls = decoded(world)
    await write(database, calls)
    week = MONDAY_US - 600 * WEEK_US  # in 2015
    days = (NOW_US - DAY_US - week) // DAY_US

    dropped = await prune(database, retention_days=days + 370)
    assert dropped is not None
    assert len(dropped) == 1
    views = await stored_views(database)
    assert len(views["feed"]) == dropped[0] > 0, "those of 2014 are still there"
    assert (await verify_database(database)).rows == CLEAN

    assert await prune(database, retention_days=days) == dropped
    assert (await stored_views(database)) == {**model_of(calls), "feed": []}
    assert (await verify_database(database)).rows == CLEAN


async def test_event_that_came_after_all_goes_at_the_next_turn(database: str) -> None:
    calls = decoded(story(40))
    await write(database, calls)
    await prune(database)
    late = {"type": "track", "event": "E", "userId": "u1", "timestamp": days_in(3)}
    await write(database, decoded([late]))

    assert await prune(database) == [1]
    assert await prune(database) == []


async def test_without_a_retention_weeks_are_only_made_ahead(database: str) -> None:
    await write(database, decoded(story(40)))
    before = await stored_views(database)
    then = MONDAY_US + 60 * WEEK_US + DAY_US
    made = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^calls_202[78]_'"
    weeks = await value(database, made)

    assert await prune(database, then, retention_days=None) == []
    assert await value(database, made) - weeks == 5
    assert await stored_views(database) == before


# Workers meanwhile -------------------------------------------------------------------------------


async def test_writers_of_the_very_week_lose_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = decoded(story(3_000))
    late = decoded([{**call, "messageId": f"late{n}"} for n, call in enumerate(story(9_000))])
    late = [call for call in late if call.type in ("identify", "group", "alias")]
    await write(database, calls)
    step = Pruning.step
    stepped: list[tuple[str, int]] = []
    written: list[Call] = []

    async def more_is_written() -> None:
        before = len(written)
        async with asyncio.timeout(30):
            while len(written) == before:  # noqa: ASYNC110 - two writers' doing
                await asyncio.sleep(0.01)

    async def between_writes(self: Any, name: str, *arguments: object) -> Any:  # noqa: ANN401 - the step's own
        await more_is_written()
        found = await step(self, name, *arguments)
        stepped.append((name, len(written)))
        await more_is_written()
        return found

    monkeypatch.setattr(Pruning, "step", between_writes)
    stop = asyncio.Event()

    async def writing(share: list[Call]) -> None:
        async with open_sink(PostgresOptions(database)) as sink:
            while share and not stop.is_set():
                batch, share[:] = share[:2], share[2:]
                # Each again, as after a crash.
                for _ in range(2):
                    await sink.write(Batch(batch, []))
                written.extend(batch)

    shares = [late[0::2], late[1::2]]
    writers = [asyncio.create_task(writing(share)) for share in shares]
    dropped = await prune(database, blocks_max=20)
    stop.set()
    await asyncio.gather(*writers)

    counts = dict(stepped)
    assert counts["begin_pruning"] > 0
    assert counts["end_pruning"] > counts["begin_pruning"], "nobody wrote: nothing is proven"
    assert len(written) > counts["end_pruning"]
    assert dropped == [0, sum(call.type in ("track", "page", "screen") for call in calls)]
    assert await stored_views(database) == without_expired(model_of([*calls, *written]))
    assert (await verify_database(database)).rows == CLEAN


async def test_reader_of_the_parent_holds_workers_up_for_a_moment_only(database: str) -> None:
    calls = decoded(story(200))
    await write(database, calls)
    async with connected(database) as reader:
        reading = reader.transaction()
        await reading.start()
        await reader.execute("LOCK TABLE ONLY windsor_private.calls IN ACCESS SHARE MODE")
        pruning = asyncio.create_task(
            prune(database, parent_wait_seconds=0.2, attempts_max=20, retention_days=RETENTION_DAYS)
        )
        late = {"type": "identify", "userId": "u1", "timestamp": days_in(2), "messageId": "late"}
        longest = 0.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with open_sink(PostgresOptions(database)) as sink:
            number = 0
            while not pruning.done():
                started = loop.time()
                more = decoded([{**late, "messageId": f"late{number}"}])
                await sink.write(Batch(more, []))
                calls += more
                longest = max(longest, loop.time() - started)
                number += 1
        whole = loop.time() - began
        with pytest.raises(TransientSinkError, match="LockNotAvailable"):
            await pruning
        await reading.rollback()

    assert number > 1
    assert longest < whole / 2
    assert await stored_views(database) == model_of(calls)
    await prune(database)
    assert await stored_views(database) == without_expired(model_of(calls))
    assert await value(database, _LEFT_BEHIND) == 0


async def test_transaction_that_began_before_the_copies_still_sees_every_call(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = decoded(story(200))
    await write(database, calls)
    kept = sum(call.type in ("identify", "group", "alias") for call in calls)
    begun = asyncio.Event()
    end = Pruning.wait_for_older_snapshots

    async def noted(self: Any) -> None:  # noqa: ANN401 - private
        begun.set()
        await end(self)

    monkeypatch.setattr(Pruning, "wait_for_older_snapshots", noted)
    async with connected(database) as reader:
        reading = reader.transaction(isolation="repeatable_read")
        await reading.start()
        # A snapshot, but no lock on the calls.
        await reader.execute("SELECT 1")
        pruning = asyncio.create_task(prune(database, attempts_max=100))
        await begun.wait()
        await asyncio.sleep(0.5)
        assert not pruning.done()
        question = (
            "SELECT count(*) FROM windsor_private.calls WHERE NOT windsor_private.expires(type)"
        )
        assert await reader.fetchval(question) == kept
        await reading.rollback()
    assert await pruning is not None


async def test_verify_meanwhile_is_clean(database: str) -> None:
    await write(database, decoded(story(300)))
    async with connected(database) as exchange:
        steps = exchange.transaction()
        await prune(database, NOW_US - 1)
        until = await exchange.fetchval("SELECT '2026-10-12T00:00:00Z'::timestamptz")
        epoch, blocks = await exchange.fetchrow(
            "SELECT * FROM windsor_private.begin_pruning('calls_2026_10_05', $1)", until
        ) or (0, 0)
        await exchange.execute(
            "SELECT windsor_private.copy_kept('calls_2026_10_05', $1, 0, $2)", until, blocks
        )
        await steps.start()
        await exchange.execute(
            "SELECT windsor_private.end_pruning('calls_2026_10_05', $1, $2, '1 s')", until, epoch
        )
        verifying = asyncio.create_task(verify_database(database))
        await asyncio.sleep(0.5)
        assert not verifying.done(), "it did not wait for the exchange"
        await steps.commit()
        assert (await verifying).rows == CLEAN


async def test_one_worker_does_it_and_the_others_pass(database: str) -> None:
    calls = decoded(story(300))
    events = sum(call.type in ("track", "page", "screen") for call in calls)
    await write(database, calls)

    turns = await asyncio.gather(*(prune(database) for _ in range(4)))

    # The others came while it was at it, or found nothing left to do.
    assert [turn for turn in turns if turn] == [[0, events]]
    async with connected(database) as another:
        await another.execute("SELECT pg_advisory_lock(hashtext('windsor.upkeep'))")
        assert await prune(database) is None


# Crashes ---------------------------------------------------------------------------------------


class _CrashError(Exception):
    pass


STEPS = ["begin_pruning", "copy_kept", "mark", "has_older_snapshots"]


@pytest.mark.parametrize("after", STEPS)
async def test_crash_after_a_step_costs_nothing(
    after: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = decoded(story(400))
    await write(database, calls)
    await prune(database, NOW_US - 1)
    statement = load_queries("retention.sql")[after]
    # Once the statement is through the connection is cut, as if the machine had lost its power.
    connect = asyncpg.connect

    async def connect_to_crash(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's
        connection = await connect(*arguments, **options)

        def crash(query: Any) -> None:  # noqa: ANN401 - asyncpg's
            if query.query == statement:
                connection.terminate()

        connection.add_query_logger(crash)
        return connection

    monkeypatch.setattr(asyncpg, "connect", connect_to_crash)
    with pytest.raises(TransientSinkError):
        await prune(database)
    monkeypatch.setattr(asyncpg, "connect", connect)
    assert await value(database, _LEFT_BEHIND) == 1

    # A worker writes to what was left behind.
    late = decoded([
        {"type": "identify", "userId": "u1", "timestamp": days_in(2), "traits": {"plan": "late"}},
        {"type": "identify", "userId": "late", "timestamp": days_in(3)},
    ])  # fmt: skip
    await write(database, late)
    await prune(database)

    assert await value(database, _LEFT_BEHIND) == 0
    assert await stored_views(database) == without_expired(model_of([*calls, *late]))
    assert (await verify_database(database)).rows == CLEAN


async def test_calls_erased_meanwhile_do_not_come_back(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(database, decoded(story(200)))
    end = Pruning.wait_for_older_snapshots

    async def erase(self: Any) -> None:  # noqa: ANN401 - private
        await execute(
            database,
            "DELETE FROM windsor_private.calls;"
            "UPDATE windsor_private.history SET epoch = epoch + 1",
        )
        await end(self)

    with monkeypatch.context() as patched:
        patched.setattr(Pruning, "wait_for_older_snapshots", erase)
        with pytest.raises(TransientSinkError, match="history was rewritten"):
            await prune(database)

    assert await value(database, _LEFT_BEHIND) == 0
    await prune(database)
    assert await value(database, "SELECT count(*) FROM windsor_private.calls") == 0


# What it tells -----------------------------------------------------------------------------------


async def test_pruned_week_is_counted_and_logged(database: str) -> None:
    calls = decoded(story(50))
    events = sum(call.type in ("track", "page", "screen") for call in calls)
    await write(database, calls)
    await prune(database, NOW_US - 1)
    metrics = Metrics(CollectorRegistry())

    with structlog.testing.capture_logs() as logs:
        await keep_up(UpkeepOptions(database, RETENTION_DAYS), NOW_US, metrics)

    assert logs[0].pop("duration_seconds") > 0
    assert logs == [
        {
            "event": "week.pruned", "log_level": "info", "table": "calls_2026_10_05",
            "calls_count": events,
        }
    ]  # fmt: skip
    assert metrics.registry.get_sample_value("windsor_weeks_pruned_total") == 1
    assert metrics.registry.get_sample_value("windsor_calls_pruned_total") == events


async def until_shown(client: httpx.AsyncClient, line: str) -> None:
    """Wait for a line of the metrics."""
    async with asyncio.timeout(30):
        while line not in (await client.get("/metrics")).text.splitlines():  # noqa: ASYNC110 - metrics tell nobody
            await asyncio.sleep(0.1)


async def test_worker_prunes_by_itself_and_goes_on_when_it_cannot(
    kafka_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "_UPKEEP_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(app, "_UPKEEP_RETRY_SECONDS", 0.1)
    name = await topic(1)
    # By the clock of this machine: the worker has no other.
    seconds = int(time.time() - 60 * 86_400 - START_US / 1e6)
    await write(database, [hand_made("track", seconds, user_id="u1")])
    # The table is not to be had: a question that the worker may not ask.
    await execute(database, "ALTER TABLE windsor_private.calls_bounds RENAME TO mislaid")
    worker = Settings(
        kafka_bootstrap_servers=kafka_server,
        kafka_topics=name,
        database_url=database,
        http_host="127.0.0.1",
        http_port=0,
        retention_days=30,
    )
    async with consuming(worker) as client:
        # Twice at least.
        async with asyncio.timeout(30):
            while True:
                text = (await client.get("/metrics")).text
                found = re.search(r'_retries_total{reason="upkeep",side="postgres"} (\d)', text)
                if found is not None and int(found[1]) > 1:
                    break
                await asyncio.sleep(0.1)
        await execute(database, "ALTER TABLE windsor_private.mislaid RENAME TO calls_bounds")
        await until_shown(client, "windsor_calls_pruned_total 1.0")

    assert (await stored_views(database))["feed"] == []
    assert len((await stored_views(database))["users"]) == 1
