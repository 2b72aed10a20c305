"""What the scenarios of one run share: servers, topics, and databases worth keeping."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from statistics import median
from typing import NamedTuple, Self

from bench import calls
from bench.calls import Record
from bench.rivals import Chunk, dump_calls, empty
from bench.servers import Servers, calls_count, ensure_topic, new_database
from bench.worker import Consumed, Workers, until_consumed, working
from consumer.errors import WindsorError

Mix = Callable[[int], Iterable[Record]]


class Sizes(NamedTuple):
    """How much of everything; the defaults are those of the published figures."""

    calls: int = 1_000_000
    slow_calls: int = 20_000
    crowd_calls: int = 200_000
    aliases: int = 100_000
    customers: int = 1_000_000
    quarter_calls: int = 10_000_000
    steady_seconds: float = 20.0
    warm_seconds: float = 3.0

    def scaled(self, calls_count: int) -> "Sizes":
        """Give the same shares of another number of calls; the seconds stay."""

        def part(count: int) -> int:
            return max(2, round(count * calls_count / self.calls))

        return self._replace(
            calls=calls_count,
            slow_calls=part(self.slow_calls),
            crowd_calls=part(self.crowd_calls),
            aliases=part(self.aliases),
            customers=part(self.customers),
            quarter_calls=part(self.quarter_calls),
        )


class Stage:
    """One run's."""

    def __init__(self, servers: Servers, sizes: Sizes, workers_count: int = 1) -> None:
        self.servers = servers
        self.sizes = sizes
        self.workers_count = workers_count
        self.rounds: dict[str, list[float]] = {}
        """What was found so far, by key: one figure a round."""
        self.curves: dict[str, list[float]] = {}
        """What is plotted; the last round's."""
        self.worker_rss_bytes_max = 0
        self._exits = AsyncExitStack()
        self._filled: str | None = None
        self._with_customers: str | None = None
        self._without_calls: tuple[str, Sequence[Chunk]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def median(self, key: str) -> float:
        """Give what was found so far."""
        return median(self.rounds[key])

    # Topics and workers ---------------------------------------------------------------------

    async def topic(self, mix: Mix, count: int) -> str:
        """Name the topic that holds so many of a mix; it is made if no run has made it yet."""
        name = f"{mix.__name__}-{count}"
        await ensure_topic(self.servers.kafka, name, lambda: mix(count), count)
        return name

    @asynccontextmanager
    async def working(self, topic: str, dsn: str, count: int = 1) -> AsyncIterator[Workers]:
        """Run workers of a new group."""
        async with working(self.servers, topic, dsn, count) as workers:
            yield workers
            self.worker_rss_bytes_max = max(self.worker_rss_bytes_max, workers.rss_bytes_max())

    async def consume(self, topic: str, dsn: str, count: int) -> Consumed:
        """Let this run's workers, of a new group, commit all of a topic."""
        async with self.working(topic, dsn, self.workers_count) as workers:
            return await until_consumed(workers, self.servers, count)

    # Databases ------------------------------------------------------------------------------

    def database(self, template: str | None = None) -> AbstractAsyncContextManager[str]:
        """Make a migrated database, or a copy of another, for a while."""
        return new_database(self.servers.dsn, template)

    async def filled(self) -> tuple[str, Consumed | None]:
        """Give the database that the realistic mix has been consumed into, which is kept.

        Returns:
            It, and what it took to fill it where that was done now.
        """
        if self._filled is not None:
            return self._filled, None
        count = self.sizes.calls
        topic = await self.topic(calls.calls, count)
        dsn = await self._exits.enter_async_context(self.database())
        consumed = await self.consume(topic, dsn, count)
        if (stored := await calls_count(dsn)) != count:
            raise WindsorError(f"the worker said {count:,} calls, Postgres has {stored:,}")
        self._filled = dsn
        return dsn, consumed

    async def without_calls(self) -> tuple[str, Sequence[Chunk]]:
        """Give a database with the filled one's partitions, all empty, and what was in them."""
        if self._without_calls is None:
            filled, _ = await self.filled()
            chunks = await dump_calls(filled, self.sizes.calls)
            dsn = await self._exits.enter_async_context(self.database(template=filled))
            await empty(dsn)
            self._without_calls = dsn, chunks
        return self._without_calls

    async def with_customers(self) -> str:
        """Give a database in which all customers have been identified."""
        if self._with_customers is None:
            count = self.sizes.customers
            topic = await self.topic(calls.customers, count)
            dsn = await self._exits.enter_async_context(self.database())
            await self.consume(topic, dsn, count)
            self._with_customers = dsn
        return self._with_customers
