"""Real workers of one group under load, and the judgement of what they have made of it.

Lost is a call that was acknowledged by the broker and is not stored; doubled is one stored
twice, or a dead letter too many. Beyond both, every view is held against the reference model,
and `windsor verify` recomputes everything.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from consumer.core.call import Call
from consumer.core.decode import Decoder
from consumer.postgres import Connection
from consumer.settings import Settings
from consumer.verify import verify_database
from tests.chaos.load import Load, LoadOptions, loading
from tests.chaos.servers import Network, Servers, create_database, network
from tests.core.calls import HandRecord
from tests.model import model_of
from tests.processes import WorkerProcess, start_worker
from tests.views import stored_views
from tests.worker import PRODUCED_MS

# The defaults would be as good, only slower: a session of 45 s is waited for at each kill.
TIMERS: Final = {
    "kafka_session_timeout_seconds": "6",
    "kafka_metadata_age_seconds_max": "1",
}
# For `make test`: what takes tens of seconds to be noticed takes some.
SHORT_TIMERS: Final = {
    **TIMERS,
    "drain_timeout_seconds": "4",
    "kafka_request_timeout_seconds": "2",
    "kafka_answer_timeout_seconds": "6",
    "kafka_leave_timeout_seconds": "0.5",
    "database_connect_timeout_seconds": "3",
    "database_statement_timeout_seconds": "3",
    "retry_seconds_max": "1",
}


_WAITING: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'windsor' AND wait_event_type = 'Lock'
"""


class ArenaOptions(NamedTuple):
    """Who is in it."""

    workers: int = 2
    partitions: int = 4
    load: LoadOptions = LoadOptions()
    settings: dict[str, str] = {}  # noqa: RUF012 - never changed
    by_pattern: bool = False
    """The workers read every topic whose name begins with the first one's."""


class Outcome(NamedTuple):
    """What is true after a scenario."""

    rounds: int
    calls: int
    recovery_seconds: list[float]
    """From the end of each fault until everything sent before it was stored and committed."""
    lost: int
    doubled: int
    differences: int
    """Rows in which `windsor verify` differs."""
    views_equal: bool | None
    """None where the calls are too many for the model: then `windsor verify` alone has judged."""
    exit_codes: list[int]
    facts: dict[str, float]
    """What else was measured, by name."""
    broken: list[str] = []  # noqa: RUF012 - never changed
    """A story's own promises that it did not keep."""

    @property
    def faultless(self) -> bool:
        """Whether nothing is wrong, but for how long it took."""
        return (
            (self.lost, self.doubled, self.differences) == (0, 0, 0)
            and self.views_equal is not False
            and not self.broken
            and set(self.exit_codes) <= {0}
        )


class Arena:
    """See the module."""

    def __init__(
        self, servers: Servers, network: Network, dsn: str, load: Load, reader: AIOKafkaConsumer,
        admin: AIOKafkaAdminClient, options: ArenaOptions, seed: int,
    ) -> None:  # fmt: skip
        self.servers = servers
        self.network = network
        self.dsn = dsn
        self.load = load
        self.rng = random.Random(seed)
        self.workers: list[WorkerProcess] = []
        self.topics = f"^{load.topic}" if options.by_pattern else load.topic
        self.rounds = 0
        self.recovery_seconds: list[float] = []
        self.facts: dict[str, float] = {}
        self.broken: list[str] = []
        self.settings = dict(options.settings)
        self.rewinds = 0
        self._reader = reader
        self._admin = admin
        self._committed: dict[tuple[str, int], int] = {}
        self._processes: list[WorkerProcess] = []

    @property
    def database_name(self) -> str:
        return self.dsn.rsplit("/", 1)[1]

    # Workers --------------------------------------------------------------------------------

    async def add_worker(self) -> WorkerProcess:
        kafka = f"127.0.0.1:{self.network.kafka.port}"
        worker = await start_worker(kafka, self.topics, self.dsn, **self.settings)
        self.workers.append(worker)
        self._processes.append(worker)
        # Before that a SIGTERM would meet no handler.
        await worker.until_logged("worker.started")
        return worker

    async def lose(self, worker: WorkerProcess) -> None:
        """SIGKILL."""
        self.workers.remove(worker)
        await worker.kill()

    async def retire(self, worker: WorkerProcess) -> int:
        """SIGTERM; gives its exit code."""
        self.workers.remove(worker)
        return await worker.stop()

    async def settled(self, partitions: int, seconds_max: float = 60) -> None:
        """Wait until all partitions are somebody's, and nobody is without."""

        async def shared() -> bool:
            self._check_workers()
            shown = await asyncio.gather(*(worker.metrics() for worker in self.workers))
            counts = [of.get("windsor_partitions_assigned", 0) for of in shown]
            return sum(counts) == partitions and min(counts) > 0

        await self.until(shared, seconds_max)

    async def total(self, metric: str, but: str | None = None) -> float:
        """A metric, labels given or all but one, summed over the workers that live."""
        shown = await asyncio.gather(*(worker.metrics() for worker in self.workers))
        return sum(
            value for of in shown for name, value in of.items()
            if metric in (name, name.split("{")[0]) and (but is None or but not in name)
        )  # fmt: skip

    async def until(self, condition: Callable[[], Any], seconds: float) -> float:
        """Wait for what an awaitable tells; gives how long it took."""
        started = time.monotonic()
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - any condition of a story
                await asyncio.sleep(0.1)
        return time.monotonic() - started

    # Progress -------------------------------------------------------------------------------

    async def caught_up(self, seconds_max: float = 90) -> float:
        """Wait until all that was sent before now is committed; gives how long it took."""
        started = time.monotonic()
        ends = dict(self.load.ends)
        async with asyncio.timeout(seconds_max):
            for place, end in ends.items():
                while await self.committed(place) < end:
                    self._check_workers()
                    await asyncio.sleep(0.05)
        return time.monotonic() - started

    async def recovered(self, seconds_max: float = 90) -> None:
        """Note how long it takes from now until the group has caught up."""
        self.rounds += 1
        self.recovery_seconds.append(await self.caught_up(seconds_max))

    async def committed(self, place: tuple[str, int]) -> int:
        """Where the next owner would begin; notes it if that goes back."""
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(5):
                offset = await self._reader.committed(TopicPartition(*place))
            if offset is not None:
                self.rewinds += offset < self._committed.get(place, 0)
                self._committed[place] = offset
        return self._committed.get(place, 0)

    async def committed_total(self) -> int:
        """Records that are committed, of all partitions."""
        return sum([await self.committed(place) for place in list(self.load.ends)])

    async def watch(self, seconds: float) -> None:
        """Let time pass, and look whether committed offsets go back."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for place in list(self.load.ends):
                await self.committed(place)
            await asyncio.sleep(0.1)

    def _check_workers(self) -> None:
        for worker in self.workers:
            assert worker.runs, worker.said

    # Load -----------------------------------------------------------------------------------

    async def pile_up(self, calls: int, calls_per_second: int = 100_000) -> None:
        """Send so many calls, or somewhat more, as good as at once."""
        usual = self.load.calls_per_second
        first = self.load.calls_count
        self.load.calls_per_second = calls_per_second

        async def piled_up() -> bool:
            return self.load.calls_count >= first + calls

        await self.until(piled_up, 300)
        self.load.calls_per_second = usual

    @asynccontextmanager
    async def writes_held(self) -> AsyncIterator[None]:
        """Every lane of every worker has a batch under way, which cannot go on until we leave.

        It waits for the calls' table, or for an identity that a batch which does has made.
        """
        lanes = Settings().lanes * len(self.workers)
        dsn = self.servers.postgres.direct(self.database_name)
        # Two, for a transaction sees who is active once.
        async with asyncpg.create_pool(dsn, min_size=2, max_size=2) as connections:

            async def all_wait() -> bool:
                return bool(await connections.fetchval(_WAITING) == lanes)

            async with connections.acquire() as holder, holder.transaction():
                await holder.execute("LOCK TABLE windsor_private.calls IN SHARE MODE")
                await self.until(all_wait, 30)
                yield

    # Topics ---------------------------------------------------------------------------------

    async def create_topic(self, name: str, partitions: int) -> None:
        async with asyncio.timeout(30):
            while True:
                # One that is being deleted is still there for a moment.
                with suppress(TopicAlreadyExistsError):
                    await self._admin.create_topics([NewTopic(name, partitions, 1)])
                    return
                await asyncio.sleep(0.1)

    async def delete_topic(self, name: str) -> None:
        await self._admin.delete_topics([name])
        self._committed.clear()

    async def drop_records(self, name: str, before: Mapping[int, int]) -> None:
        """What retention does, at once: partitions begin at these offsets from now on."""
        await self._admin.delete_records(
            {TopicPartition(name, n): RecordsToDelete(offset) for n, offset in before.items()}
        )

    async def grow_topic(self, name: str, partitions: int) -> None:
        await self._admin.create_partitions({name: NewPartitions(partitions)})

    # Judgement ------------------------------------------------------------------------------

    async def judged(self) -> Outcome:
        """End the load, let the workers finish and leave, and look at everything."""
        await self.load.stop()
        await self.caught_up()
        exit_codes = await asyncio.gather(*(worker.stop() for worker in self.workers))
        self.workers.clear()
        direct = self.servers.postgres.direct(self.database_name)
        kept = self.load.kept
        if kept is None:
            views_equal = None
            lost, doubled = await self._counted(direct)
        else:
            sent = decoded([s.value for s in kept])
            views_equal = await stored_views(direct) == model_of(sent)
            lost, doubled = await _compared(
                direct,
                Counter(call.clock.message_id for call in sent),
                Counter(sent.value for sent in kept if sent.poison),
            )
        if self.rewinds:
            self.facts["rewinds"] = self.rewinds
        return Outcome(
            rounds=self.rounds,
            calls=self.load.calls_count,
            recovery_seconds=self.recovery_seconds,
            lost=lost,
            doubled=doubled,
            differences=(await verify_database(direct)).differences,
            views_equal=views_equal,
            exit_codes=list(exit_codes),
            facts=self.facts,
            broken=self.broken,
        )

    async def _counted(self, dsn: str) -> tuple[int, int]:
        """Lost and doubled, from numbers alone: every call and every poison has its own name."""
        connection = await asyncpg.connect(dsn)
        try:
            calls = await _counts(connection, "windsor_private.calls", "message_id")
            letters = await _counts(connection, "windsor.dead_letters", "value")
        finally:
            await connection.close()
        of_calls = tallied(self.load.calls_count, *calls)
        of_letters = tallied(self.load.poison_count, *letters)
        return of_calls[0] + of_letters[0], of_calls[1] + of_letters[1]

    def last_words(self) -> str:
        """What a person wants to know of an arena in which something failed."""
        lines = [f"facts {self.facts}, recovered {self.recovery_seconds}, sent {self.load.ends}"]
        for worker in self._processes:
            code = worker.process.returncode
            lines.append(f"worker {worker.pid}, exit code {code}: {worker.said[-3:]}")
            lines += [f"  {entry}" for entry in worker.log[-12:]]
        return "\n".join(lines)

    async def close(self) -> None:
        for worker in self._processes:
            await worker.close()


def tallied(sent: int, stored: int, distinct: int) -> tuple[int, int]:
    """Lost and doubled, of calls or of dead letters.

    Each for itself: a good call that became a dead letter is a call too few and a letter too
    many, and must not make up for itself.
    """
    surplus = max(0, distinct - sent)
    return max(0, sent - distinct), stored - distinct + surplus


async def _counts(connection: Connection, table: str, column: str) -> tuple[int, int]:
    row = await connection.fetchrow(f"SELECT count(*), count(DISTINCT {column}) FROM {table}")
    assert row is not None
    return row[0], row[1]


async def _compared(dsn: str, calls: Counter[str], poison: Counter[bytes]) -> tuple[int, int]:
    """Lost and doubled, one by one."""
    connection = await asyncpg.connect(dsn)
    try:
        stored = Counter(
            row[0] for row in await connection.fetch("SELECT message_id FROM windsor_private.calls")
        )
        letters = Counter(
            row[0] for row in await connection.fetch("SELECT value FROM windsor.dead_letters")
        )
    finally:
        await connection.close()
    lost = (calls - stored).total() + (poison - letters).total()
    return lost, (stored - calls).total() + (letters - poison).total()


def decoded(values: list[bytes]) -> list[Call]:
    """The calls among records, as the workers read them."""
    decoder = Decoder()
    records = (HandRecord(timestamp=PRODUCED_MS, value=value) for value in values)
    return [call for record in records for call in decoder.decode(record) if isinstance(call, Call)]


@asynccontextmanager
async def arena(servers: Servers, options: ArenaOptions, seed: int) -> AsyncIterator[Arena]:
    """Servers in order, a fresh topic and database, workers up and under load."""
    name = f"chaos_{time.time_ns()}"
    kafka = servers.kafka.bootstrap_servers
    async with AsyncExitStack() as stack:
        proxies = await stack.enter_async_context(network(servers))
        dsn = await create_database(servers, proxies.postgres, name)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        stack.push_async_callback(admin.close)
        await admin.create_topics([NewTopic(name, options.partitions, 1)])
        reader = AIOKafkaConsumer(
            bootstrap_servers=kafka, group_id=name, enable_auto_commit=False,
            metadata_max_age_ms=1_000,
        )  # fmt: skip
        await reader.start()
        stack.push_async_callback(reader.stop)
        load = await stack.enter_async_context(
            loading(kafka, name, options.partitions, seed, options.load)
        )
        settings = {"kafka_group_id": name, **options.settings}
        arena_ = Arena(
            servers, proxies, dsn, load, reader, admin, options._replace(settings=settings), seed
        )
        stack.push_async_callback(arena_.close)
        await asyncio.gather(*(arena_.add_worker() for _ in range(options.workers)))
        await arena_.settled(options.partitions)
        await arena_.caught_up()
        yield arena_
