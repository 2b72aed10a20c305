"""What is measured: each function runs once a round, and gives figures by their keys."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import asyncpg

from bench import calls, rivals
from bench.endpoint import endpoint
from bench.freshness import Freshness, freshness
from bench.servers import database_bytes, new_topic
from bench.stage import Mix, Stage
from bench.worker import Consumed
from consumer.errors import WindsorError

Figures: TypeAlias = dict[str, float]

STEADY_CALLS_PER_SECOND: Final = 2_000
LOADED_SHARE: Final = 0.7
GROWTH_SLICES: Final = 10

_COPY_CONNECTIONS: Final = (1, 2, 3)
_ALIAS_STORMS: Final = (
    calls.alias_chain,
    calls.alias_chain_shuffled,
    calls.alias_star,
    calls.alias_star_shuffled,
)
# The share of the probes up to each point of the curve.
CURVE_SHARES: Final = (*(number / 100 for number in range(1, 100)), 0.995, 0.999)

_TRANSACTION_POLL_SECONDS: Final = 0.02
_LONGEST_TRANSACTION = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_VIEWS = "SELECT viewname FROM pg_views WHERE schemaname = 'windsor' ORDER BY viewname"


async def throughput(stage: Stage) -> Figures:
    """All semantics on, from Kafka to committed, from an empty database."""
    count = stage.sizes.calls
    dsn, consumed = await stage.filled()
    if consumed is None:
        topic = await stage.topic(calls.calls, count)
        async with stage.database() as dsn:
            consumed = await stage.consume(topic, dsn, count)
            size = await database_bytes(dsn)
    else:
        size = await database_bytes(dsn)
    return {
        "calls_per_second": consumed.calls_per_second,
        "worker_cpu_seconds_per_million": consumed.worker_cpu_seconds / count * 1e6,
        "postgres_cpu_seconds_per_million": consumed.postgres_cpu_seconds / count * 1e6,
        "postgres_bytes_per_call": size / count,
    }


async def copy_limit(stage: Stage) -> Figures:
    """The same rows into the same tables: no Kafka, no decoding, no users."""
    dsn, chunks = await stage.without_calls()
    figures = {}
    for connections_count in _COPY_CONNECTIONS:
        async with stage.database(template=dsn) as copy:
            found = await rivals.copy_limit(copy, chunks, connections_count)
        figures[f"copy_limit_{connections_count}_calls_per_second"] = found
    return figures


async def copy_loop(stage: Stage) -> Figures:
    """A good loop by hand, which stores the calls and knows no customers."""
    count = stage.sizes.calls
    topic = await stage.topic(calls.calls, count)
    async with stage.database() as dsn:
        found = await rivals.copy_loop(stage.servers.kafka, topic, dsn, count)
    return {"copy_loop_calls_per_second": found}


async def per_message(stage: Stage) -> Figures:
    """A simple loop: an INSERT for each message."""
    count = stage.sizes.slow_calls
    topic = await stage.topic(calls.calls, count)
    async with stage.database() as dsn:
        found = await rivals.per_message(stage.servers.kafka, topic, dsn, count)
    return {"per_message_calls_per_second": found}


async def steady_freshness(stage: Stage) -> Figures:
    """From Kafka timestamp to visible, at a pace that leaves room."""
    found = await _freshness(stage, STEADY_CALLS_PER_SECOND, workers_count=1)
    stage.curves["freshness_seconds"] = [found.quantile(share) for share in CURVE_SHARES]
    return {
        "freshness_p50_seconds": found.quantile(0.5),
        "freshness_p99_seconds": found.quantile(0.99),
    }


async def loaded_freshness(stage: Stage) -> Figures:
    """The same near the maximum that this run has measured."""
    pace = LOADED_SHARE * stage.median("calls_per_second")
    found = await _freshness(stage, pace, stage.workers_count)
    stage.curves["freshness_loaded_seconds"] = [found.quantile(share) for share in CURVE_SHARES]
    return {
        "freshness_p50_loaded_seconds": found.quantile(0.5),
        "freshness_p99_loaded_seconds": found.quantile(0.99),
        "freshness_loaded_calls_per_second": found.calls_per_second,
    }


async def _freshness(stage: Stage, calls_per_second: float, workers_count: int) -> Freshness:
    # Whose customers are known, as they are where a pace is steady.
    filled, _ = await stage.filled()
    async with (
        new_topic(stage.servers.kafka) as topic,
        stage.database(template=filled) as dsn,
        stage.working(topic, dsn, workers_count) as workers,
    ):
        return await freshness(
            stage.servers,
            topic,
            dsn,
            workers,
            calls_per_second=calls_per_second,
            seconds=stage.sizes.steady_seconds,
            warm_seconds=stage.sizes.warm_seconds,
        )


async def audience_sync(stage: Stage) -> Figures:
    """The first sync of an audience: a trait for each of the users that there are."""
    count = stage.sizes.customers
    customers = await stage.with_customers()
    topic = await stage.topic(calls.audience, count)
    async with stage.database(template=customers) as dsn:
        consumed = await stage.consume(topic, dsn, count)
        await _expect(dsn, "SELECT members_count FROM windsor.audiences", count)
    return {"audience_sync_seconds": consumed.seconds}


async def hot_user(stage: Stage) -> Figures:
    """Nine of ten calls from one user, beside a crowd of users that are all alike."""
    count = stage.sizes.crowd_calls
    uniform, hot = [await _consumed(stage, mix, count) for mix in (calls.uniform, calls.hot_user)]
    return {"hot_user_ratio": hot.calls_per_second / uniform.calls_per_second}


async def alias_storm(stage: Stage) -> Figures:
    """All identities merged into one user: by a chain, by a star, in order and shuffled."""
    count = stage.sizes.aliases
    figures = {}
    seconds = longest = 0.0
    for mix in _ALIAS_STORMS:
        topic = await stage.topic(mix, count)
        async with stage.database() as dsn:
            stop = asyncio.Event()
            watching = asyncio.create_task(_longest_transaction(dsn, stop))
            try:
                consumed = await stage.consume(topic, dsn, count)
            finally:
                stop.set()
                longest = max(longest, await watching)
            await _expect(dsn, "SELECT count(*) FROM windsor.users", 1)
        figures[f"{mix.__name__}_calls_per_second"] = consumed.calls_per_second
        seconds += consumed.seconds
    return {
        "alias_storm_calls_per_second": len(_ALIAS_STORMS) * count / seconds,
        "alias_storm_transaction_seconds_max": longest,
        **figures,
    }


async def replay(stage: Stage) -> Figures:
    """The whole topic again by a new group: nothing changes."""
    count = stage.sizes.calls
    topic = await stage.topic(calls.calls, count)
    dsn, _ = await stage.filled()
    before = await _fingerprint(dsn)
    consumed = await stage.consume(topic, dsn, count)
    after = await _fingerprint(dsn)
    changed = [view for view, found in after.items() if found != before[view]]
    if changed:
        raise WindsorError(f"a replay changed {', '.join(changed)}")
    return {"replay_calls_per_second": consumed.calls_per_second}


async def growth(stage: Stage) -> Figures:
    """Three months of calls: the last tenth beside the first."""
    count = stage.sizes.quarter_calls
    consumed = await _consumed(stage, calls.quarter, count)
    rates = _slices(consumed, GROWTH_SLICES)
    stage.curves["growth_calls_per_second"] = rates
    return {"growth_ratio": rates[-1] / rates[0]}


async def _consumed(stage: Stage, mix: Mix, count: int) -> Consumed:
    topic = await stage.topic(mix, count)
    async with stage.database() as dsn:
        return await stage.consume(topic, dsn, count)


def _slices(consumed: Consumed, count: int) -> list[float]:
    """The throughput of each of so many equal parts of the calls."""
    size = consumed.calls_count / count
    marks = [_seconds_at(consumed.progress, number * size) for number in range(count + 1)]
    return [size / (end - start) for start, end in pairwise(marks)]


def _seconds_at(progress: list[tuple[float, int]], stored: float) -> float:
    """When so many calls were committed: between two looks at an even pace."""
    for (before, fewer), (after, more) in pairwise(progress):
        if stored <= more:
            return before + (after - before) * (stored - fewer) / (more - fewer)
    return progress[-1][0]


async def _expect(dsn: str, query: str, expected: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetchval(query)
    finally:
        await connection.close()
    if found != expected:
        raise WindsorError(f"{query}: {found}, not {expected}")


async def _longest_transaction(dsn: str, stop: asyncio.Event) -> float:
    longest = 0.0
    connection = await asyncpg.connect(dsn)
    try:
        while not stop.is_set():
            longest = max(longest, await connection.fetchval(_LONGEST_TRANSACTION))
            await asyncio.sleep(_TRANSACTION_POLL_SECONDS)
    finally:
        await connection.close()
    return longest


async def _fingerprint(dsn: str) -> dict[str, object]:
    """The public views: how many rows, and a sum over what is in them."""
    connection = await asyncpg.connect(dsn)
    try:
        # Without statistics, which are not there so soon, the views' joins take minutes.
        await connection.execute("ANALYZE")
        found: dict[str, object] = {}
        for (view,) in await connection.fetch(_VIEWS):
            # Of the feed what can change: a call stays as it is, whose it is does not.
            shown = "row(v.message_id, v.user_id)" if view == "feed" else "v"
            found[view] = tuple(
                await connection.fetchrow(
                    f"SELECT count(*), sum(hashtextextended({shown}::text, 0)::numeric)"  # noqa: S608 - our own views
                    f' FROM windsor."{view}" AS v'
                )
                or ()
            )
    finally:
        await connection.close()
    return found


class Scenario(NamedTuple):
    """A measurement, and what must have been measured before it."""

    measure: Callable[[Stage], Awaitable[Figures]]
    needs: tuple[str, ...] = ()


# In the order in which a round goes through them.
SCENARIOS: Final = {
    "throughput": Scenario(throughput),
    "copy_limit": Scenario(copy_limit),
    "copy_loop": Scenario(copy_loop),
    "per_message": Scenario(per_message),
    "replay": Scenario(replay),
    "freshness": Scenario(steady_freshness),
    "freshness_loaded": Scenario(loaded_freshness, needs=("throughput",)),
    "hot_user": Scenario(hot_user),
    "alias_storm": Scenario(alias_storm),
    "audience_sync": Scenario(audience_sync),
    "endpoint": Scenario(endpoint),
}
LONG_SCENARIOS: Final = {"growth": Scenario(growth)}
