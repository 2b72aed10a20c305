"""Batches in, each one transaction. The only module that knows the pool.

A batch is tried until it is committed as a whole: its transaction is begun again when what was
read before it holds no more, and when a call is met that is stored already. The world's
failures and the data's go to the pipeline, which waits or bisects.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date, timedelta
from typing import Final, NamedTuple

import asyncpg

from consumer.core.clock import week_start
from consumer.core.fold import CallsByWeek, distinct, fold
from consumer.errors import TransientSinkError
from consumer.ports import Batch, Written
from consumer.postgres.connection import FAILURES, Connection, prepare_connection, translated
from consumer.postgres.identities import Identities
from consumer.postgres.transaction import OutOfDateError, write_batch
from consumer.sql import load_queries

_SQL: Final = load_queries("write.sql")

# For so many batches after a duplicate we ask before copying: a replay is duplicates all
# through, and a failed COPY costs more than the question.
_CHECKED_BATCHES: Final = 50

# Each time another transaction has gone on; so many in a row are no race any more.
_ATTEMPTS_MAX: Final = 50

_FIRST_MONDAY: Final = date(1970, 1, 5)

# Every statement of a batch reads or changes rows by their keys, in the order of its arrays. One
# plan does that for good, whatever statistics there are (a young database has none): nested
# loops over indexes, planned once. It also locks rows in that order.
_SESSION: Final = {
    "timezone": "UTC",
    "application_name": "windsor",
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
    # A worker that has hung up, or stands still, must not keep what its batch has locked: Postgres
    # looks whether we are there while a statement waits, and waits but so long for the next one.
    "client_connection_check_interval": "2s",
    "idle_in_transaction_session_timeout": "60s",
}


class PostgresOptions(NamedTuple):
    """How to reach Postgres; every wait has an end."""

    dsn: str
    connections_max: int = 3
    connect_timeout_seconds: float = 10.0
    statement_timeout_seconds: float = 20.0


class PostgresSink:
    """Writes batches; implements `consumer.ports.Sink`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", options: PostgresOptions) -> None:
        self._pool = pool
        self._options = options
        self._weeks: set[int] = set()
        self._identities = Identities()
        self._checked_batches_left = 0

    def connections(self) -> tuple[int, int]:
        """How many connections there are, and how many of them are idle."""
        return self._pool.get_size(), self._pool.get_idle_size()

    async def write(self, batch: Batch) -> Written:
        """Write a batch in one transaction; see `consumer.ports.Sink.write`."""
        weeks = distinct(batch.calls)
        async with self._connection() as connection:
            for attempt in range(1, _ATTEMPTS_MAX + 1):
                try:
                    await self._ensure_weeks(connection, weeks)
                    return await self._try(connection, batch, weeks, attempt)
                except asyncpg.UniqueViolationError as error:
                    if error.table_name is None or not error.table_name.startswith("calls"):
                        raise
                    # A call of the batch is stored already: ask which, and copy the others.
                    self._checked_batches_left = _CHECKED_BATCHES
                except asyncpg.CheckViolationError:
                    # No partition for a call: another server has not all that was made here.
                    self._weeks.clear()
                except OutOfDateError as error:
                    if error.history is not None:
                        self._identities.begin(error.history)
                        self._weeks.clear()
        raise TransientSinkError(f"a batch was out of date {_ATTEMPTS_MAX} times in a row")

    async def now(self) -> float:
        """Ask Postgres for its time, in seconds since the epoch.

        Raises:
            TransientSinkError: There is no answer.
        """
        async with self._connection() as connection:
            now: float = await connection.fetchval(_SQL["server_now"])
        return now

    async def ping(self) -> None:
        """Ask Postgres for a sign of life.

        Raises:
            TransientSinkError: There is none.
        """
        async with self._connection() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection; what goes wrong on it is translated here, once."""
        try:
            async with self._pool.acquire(
                timeout=self._options.connect_timeout_seconds
            ) as connection:
                with _hung_up_at_once(connection):
                    yield connection
        except asyncpg.ReadOnlySQLTransactionError as error:
            # After a failover the pool still holds the old primary, read-only now.
            await self._pool.expire_connections()
            raise translated(error) from error
        except FAILURES as error:
            raise translated(error) from error

    async def _try(
        self, connection: Connection, batch: Batch, weeks: CallsByWeek, attempt: int
    ) -> Written:
        if self._checked_batches_left > 0:
            self._checked_batches_left -= 1
            weeks = await self._not_stored(connection, weeks)
        deltas = fold(itertools.chain.from_iterable(calls.values() for calls in weeks.values()))
        named = await self._identities.name(connection, deltas)
        # So that two workers that copy the same calls do not wait for each other in a circle.
        ordered = [weeks[week][key] for week in sorted(weeks) for key in sorted(weeks[week])]
        async with connection.transaction():
            # Inside too: before the ROLLBACK.
            with _hung_up_at_once(connection):
                merges = await write_batch(connection, ordered, deltas, named, batch.rejected)
        # Committed: what is remembered must never be ahead of the database.
        self._identities.remember(named)
        return Written(
            calls_new=len(ordered),
            calls_duplicate=len(batch.calls) - len(ordered),
            merges=merges,
            dead_letters=len(batch.rejected),
            attempts=attempt,
        )

    async def _ensure_weeks(self, connection: Connection, weeks: Iterable[int]) -> None:
        """Make the partitions of weeks not met before, outside of the transaction."""
        for week in sorted(set(weeks) - self._weeks):
            # One statement each, so that a lock on the parent is held as short as can be.
            await connection.execute(_SQL["ensure_week"], _FIRST_MONDAY + timedelta(weeks=week))
            self._weeks.add(week)

    async def _not_stored(self, connection: Connection, weeks: CallsByWeek) -> CallsByWeek:
        """Leave out the calls that are stored."""
        calls = [(week, key) for week, of_week in weeks.items() for key in of_week]
        rows = await connection.fetch(
            _SQL["stored_calls"],
            [key for _, key in calls],
            [week_start(week) for week, _ in calls],
            [week_start(week + 1) for week, _ in calls],
        )
        if not rows:
            return weeks
        self._checked_batches_left = _CHECKED_BATCHES
        new = {week: dict(of_week) for week, of_week in weeks.items()}
        for (place,) in rows:
            week, key = calls[place - 1]
            del new[week][key]
        return new


@contextmanager
def _hung_up_at_once(connection: Connection) -> Iterator[None]:
    """Hang up where a statement was cancelled or has taken too long.

    The client library would ask the server to cancel it, and wait for the answer before anything
    else: on a network that has gone, as long again as the statement's own deadline, and once more
    for the ROLLBACK. A server that is there undoes what was begun when it misses us (`_SESSION`).
    """
    try:
        yield
    except (asyncio.CancelledError, TimeoutError):
        connection.terminate()
        raise


async def _nothing_to_reset(_connection: Connection) -> None:
    pass


@asynccontextmanager
async def open_sink(options: PostgresOptions) -> AsyncIterator[PostgresSink]:
    """Open the pool that lanes write through.

    Raises:
        TransientSinkError: Postgres cannot be reached.
    """
    try:
        pool = await asyncpg.create_pool(
            options.dsn,
            min_size=1,
            max_size=options.connections_max,
            timeout=options.connect_timeout_seconds,
            command_timeout=options.statement_timeout_seconds,
            init=prepare_connection,
            # Nothing outlives a transaction on these: a round trip less for each batch.
            reset=_nothing_to_reset,
            server_settings=_SESSION,
        )
    except FAILURES as error:
        raise translated(error) from error
    try:
        yield PostgresSink(pool, options)
    finally:
        pool.terminate()
