"""The upkeep of the log's weeks: near ones are made ahead, expired ones are pruned.

Theory of operation
-------------------
Of an expired week what stays (identify, group and alias calls) is put in a fresh partition,
which then replaces the old one; `schemas/migrations/0002_pruning.sql` has the steps. Workers go
on meanwhile, also those that write a late call into that very week:

- a trigger repeats into the fresh partition what they write, from before the first call is
  copied: creating it waits for those who are writing;
- the old calls are copied in steps of bounded size, which lock nothing that a writer needs;
- before the exchange we wait for readers whose snapshot is older than the copies;
- the exchange needs the parent for itself: we wait for it for a second at most, then let
  everybody pass and try again.

The old partition is whole until the exchange, so a crash costs only the copies: the next turn
takes them away. Weeks are pruned oldest first, each a day after it has expired, so that no
worker whose clock is behind, or whose batch has waited, still writes what was dropped.

Source: docs/decisions/0002-one-partitioned-log.md.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple, Protocol

import asyncpg
import structlog

from consumer.core.clock import DAY_US
from consumer.core.policy import RetryPolicy, expired_before
from consumer.errors import TransientSinkError
from consumer.postgres import FAILURES, Connection, prepare_connection, translated
from consumer.sql import load_queries

log = structlog.get_logger()

_UPKEEP: Final = load_queries("retention.sql")

_WEEKS_AHEAD: Final = 4
_GRACE_US: Final = DAY_US


class UpkeepOptions(NamedTuple):
    """How the upkeep is done; every wait has an end."""

    dsn: str
    retention_days: int | None = None
    connect_timeout_seconds: float = 10.0
    statement_timeout_seconds: float = 20.0
    blocks_max: int = 1_000
    """Blocks (8 KiB) that one step copies from."""
    parent_wait_seconds: float = 1.0
    """How long the workers may have to wait for us while we wait for them."""
    retry: RetryPolicy = RetryPolicy(1.0, 2.0, 30.0)
    attempts_max: int = 8
    """Of one step, before the week is left for the next turn."""


class UpkeepObserver(Protocol):
    """What the upkeep tells the metrics."""

    def week_pruned(self, calls: int) -> None:
        """A week's track, page and screen calls are gone."""


async def keep_up(options: UpkeepOptions, now_us: int, observer: UpkeepObserver) -> bool:
    """Make the weeks of the near future, and prune those that have expired.

    Args:
        options: See there.
        now_us: Microseconds since the epoch.
        observer: Told of each week pruned.

    Returns:
        False if another worker is at it.

    Raises:
        TransientSinkError: Postgres is away, or somebody kept a lock for too long.
    """
    async with _connected(options) as connection:
        if not await connection.fetchval(_UPKEEP["try_alone"]):
            return False
        for week in range(_WEEKS_AHEAD + 1):
            await connection.execute(_UPKEEP["ensure_week_ahead"], now_us, week)
        upkeep = Pruning(connection, options)
        await upkeep.abandon()
        cutoff = expired_before(now_us - _GRACE_US, options.retention_days)
        if cutoff is not None:
            for leaf, until in await connection.fetch(_UPKEEP["prunable"], cutoff):
                started = time.monotonic()
                calls = await upkeep.prune(leaf, until)
                observer.week_pruned(calls)
                log.info(
                    "week.pruned",
                    table=leaf,
                    calls_count=calls,
                    duration_seconds=round(time.monotonic() - started, 3),
                )
    return True


class Pruning:
    """The steps of pruning, on one connection."""

    def __init__(self, connection: Connection, options: UpkeepOptions) -> None:
        self._connection = connection
        self._options = options

    async def abandon(self) -> None:
        """Take away what an earlier turn did not end."""
        if abandoned := await self.step("abandon_prunings"):
            log.info("pruning.abandoned", weeks_count=abandoned)

    async def prune(self, leaf: str, until: int) -> int:
        """Prune a partition up to a clock; return how many calls are gone.

        Raises:
            TransientSinkError: History was rewritten meanwhile.
        """
        begun = await self.step("begin_pruning", leaf, until)
        calls = 0
        for block in range(0, begun["blocks"], self._options.blocks_max):
            to = min(block + self._options.blocks_max, begun["blocks"])
            calls += await self._connection.fetchval(_UPKEEP["copy_kept"], leaf, until, block, to)
        await self.wait_for_older_snapshots()
        wait = timedelta(seconds=self._options.parent_wait_seconds)
        row = await self.step("end_pruning", leaf, until, begun["epoch"], wait)
        if not row:
            await self.abandon()
            raise TransientSinkError("history was rewritten while a week was pruned")
        return calls

    async def wait_for_older_snapshots(self) -> None:
        """Wait for those to whom what was copied is not there yet.

        Raises:
            TransientSinkError: Somebody keeps a transaction open for too long.
        """
        mark = await self._connection.fetchval(_UPKEEP["mark"])
        for attempt in range(1, self._options.attempts_max + 1):
            if not await self._connection.fetchval(_UPKEEP["has_older_snapshots"], mark):
                return
            await asyncio.sleep(self._wait_seconds(attempt))
        raise TransientSinkError("a transaction reads for so long that no week can be pruned")

    async def step(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - the step's own
        """Run a step, which waits for a lock but briefly; again and again."""
        attempt = 0
        while True:
            try:
                row = await self._connection.fetchrow(_UPKEEP[name], *arguments)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                attempt += 1
                if attempt >= self._options.attempts_max:
                    raise
                await asyncio.sleep(self._wait_seconds(attempt))
            else:
                return row[0] if row is not None and len(row) == 1 else row

    def _wait_seconds(self, attempt: int) -> float:
        return self._options.retry.wait_seconds(attempt, random.random())  # noqa: S311 - jitter


@asynccontextmanager
async def _connected(options: UpkeepOptions) -> AsyncIterator[Connection]:
    """A connection beside the lanes'; what goes wrong on it is translated here."""
    wait_ms = round(options.parent_wait_seconds * 1000)
    try:
        connection = await asyncpg.connect(
            options.dsn,
            timeout=options.connect_timeout_seconds,
            command_timeout=options.statement_timeout_seconds,
            server_settings={
                "timezone": "UTC",
                "application_name": "windsor upkeep",
                "lock_timeout": str(wait_ms),
            },
        )
        try:
            await prepare_connection(connection)
            yield connection
        finally:
            connection.terminate()
    except FAILURES as error:
        raise translated(error) from error
