"""The pipeline in a world of its own: fake ports, and an event loop whose time is not ours.

Theory of operation
-------------------
Nothing here waits: when no task can go on, the loop's clock jumps to the next timer, so an hour
passes in milliseconds. All chance comes from one seed: how long each answer takes, what fails
and how (also after it took effect), how much a poll brings, when the group takes partitions
away, at whatever await the pipeline then stands, and when the worker is told to stop. The same
seed is the same story, event by event.

Checked at every step:

- no offset is committed above a record that is not written;
- committed offsets never go back;
- a transaction is of one lane, and no lane has two at once;
- a user's calls are first written in the order of their partition, while it is ours;
- lanes are bounded;
- a worker that is told to stop ends in time;
- in a good world what was delivered is written and committed before it is handed over;

and at the end that the next worker writes what is left: all of it, no dead letter too many.
"""

import asyncio
import random
import selectors
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import structlog

from consumer import pipeline as pipeline_module
from consumer.core.call import Call, Outcome, Record, Rejected, Skipped
from consumer.core.policy import BatchLimits, RetryPolicy, lane_of
from consumer.core.valve import ValvePolicy
from consumer.errors import PermanentSinkError, TransientSinkError
from consumer.pipeline import Pipeline, PipelineOptions
from consumer.ports import AssignmentListener, Batch, Chunk, TopicPartition, Written
from tests.core.calls import HandRecord, call
from tests.fakes import CountingObserver

_GROUP_WAITS_SECONDS: Final = 60.0
_LEAVE_SECONDS: Final = 3.0


class BrokenInvariantError(AssertionError):
    """What must never be."""


class _NoWaiting(selectors.SelectSelector):
    """Passes the time instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise BrokenInvariantError("everybody waits, and nothing is left to happen")
        self.now += timeout
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that lives in its own time."""

    def __init__(self) -> None:
        self._passing = _NoWaiting()
        super().__init__(self._passing)

    def time(self) -> float:
        """Seconds since it was made."""
        return self._passing.now


class World(NamedTuple):
    """The parameters of a story, drawn from its seed."""

    partitions: int
    records: int
    """Of each partition."""
    options: PipelineOptions
    failing: float
    """Share of writes and commits that fail."""
    slow: float
    """Share of answers that take seconds."""
    rebalances: int
    stop_after_seconds: float


def drawn(rng: random.Random) -> World:
    """Draw a world: small bounds, so that they are met."""
    options = PipelineOptions(
        lanes=rng.randint(1, 4),
        limits=BatchLimits(calls_max=rng.randint(1, 8)),
        lane_calls_max=rng.randint(1, 12),
        poll_records_max=rng.randint(1, 10),
        retry=RetryPolicy(0.05, 2.0, 1.0),
        drain_timeout_seconds=rng.choice((0.5, 3.0, 20.0)),
        last_commit_timeout_seconds=1.0,
        commit_interval_seconds=rng.choice((0.01, 0.1)),
        pause_after_seconds=rng.choice((0.05, 1.0, 10.0)),
        valve=ValvePolicy(share_max=1.0),
    )
    return World(
        partitions=rng.randint(1, 4),
        records=rng.randint(4, 18),
        options=options,
        failing=rng.choice((0.0, 0.05, 0.3)),
        slow=rng.choice((0.0, 0.02, 0.3)),
        rebalances=rng.choice((0, 1, 3, 6)),
        stop_after_seconds=rng.uniform(0.5, 12.0),
    )


class Cluster:
    """What outlives a worker: the log, the committed offsets, the database."""

    def __init__(self, rng: random.Random, world: World) -> None:
        self.rng = rng
        self.world = world
        self.trace: list[str] = []
        self.logs: dict[TopicPartition, list[HandRecord]] = {}
        for number in range(world.partitions):
            offset, log = 0, []
            for _ in range(world.records):
                # Gaps are normal.
                offset += rng.choice((1, 1, 1, 2, 5))
                user = rng.choice((b"jane", b"joe", b"jack", b"jim", b"bad", b"poison", None))
                log.append(HandRecord(offset, partition=number, value=user))
            self.logs[TopicPartition("calls", number)] = log
        self.committed: dict[TopicPartition, int] = {}
        self.written: set[tuple[int, int]] = set()
        """Partition and offset of every record that needs no more."""
        self.letters: set[tuple[int, int]] = set()
        self.firsts: dict[tuple[int, str], int] = {}
        self.generation = 0
        for partition, log in self.logs.items():
            self.written.update((partition.partition, r.offset) for r in log if r.value is None)

    def end(self, partition: TopicPartition) -> int:
        return self.logs[partition][-1].offset + 1

    def commit(self, partition: TopicPartition, offset: int) -> None:
        """Take an offset, if it may be."""
        self.note("committed", partition.partition, offset)
        for record in self.logs[partition]:
            place = (partition.partition, record.offset)
            if record.offset < offset and place not in self.written:
                raise BrokenInvariantError(f"{offset} was committed, {place} is not written")
        if offset < self.committed.get(partition, 0):
            raise BrokenInvariantError(f"{partition} went back to {offset}")
        self.committed[partition] = offset

    def store(self, batch: Batch) -> None:
        """The effect of a transaction."""
        for stored in batch.calls:
            place = (stored.record.partition, stored.record.offset)
            # What was read before the partition was taken away may come late, and is true still.
            if place not in self.written and stored.record.timestamp == self.generation:
                user = (stored.record.partition, stored.user_id or "")
                if self.firsts.get(user, -1) > stored.record.offset:
                    raise BrokenInvariantError(f"{user}: {place} came after a later one")
                self.firsts[user] = stored.record.offset
            self.written.add(place)
        for letter in batch.rejected:
            self.written.add((letter.record.partition, letter.record.offset))
            self.letters.add((letter.record.partition, letter.record.offset))
        self.note("stored", len(batch.calls), len(batch.rejected))

    def note(self, *event: object) -> None:
        """Keep the story, to hold against itself."""
        self.trace.append(f"{asyncio.get_running_loop().time():.3f} {event}")

    async def answer(self) -> None:
        """As long as an answer takes."""
        if self.rng.random() < self.world.slow:
            await asyncio.sleep(self.rng.uniform(0.5, 8.0))
        else:
            await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.01, 0.05)))

    def fails(self) -> bool:
        return self.rng.random() < self.world.failing


class SimulatedSource:
    """One member of the group; implements `consumer.ports.Source`."""

    def __init__(self, cluster: Cluster, rebalances: int) -> None:
        self._cluster = cluster
        self._rebalances = rebalances
        self._positions: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._committing = asyncio.Lock()
        self._paused = False
        self._revoking = False
        self._rebalancing: asyncio.Task[None] | None = None
        self.stopped = False

    async def start(self, listener: AssignmentListener) -> None:
        await asyncio.sleep(0.01)
        self._rebalancing = asyncio.create_task(self._rebalance(listener))

    async def poll(self, records_max: int) -> Sequence[Chunk]:
        rng = self._cluster.rng
        if self._rebalancing is not None and self._rebalancing.done():
            # What a callback raises ends the worker.
            self._rebalancing.result()
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.02)))
        chunks, left = [], records_max
        # As the client does, it delivers nothing while a rebalance is under way.
        partitions = [] if self._paused or self._revoking else list(self._positions)
        rng.shuffle(partitions)
        for partition in partitions:
            there = [
                record for record in self._cluster.logs[partition]
                if record.offset >= self._positions[partition]
            ][: rng.randint(0, left)]  # fmt: skip
            if there:
                left -= len(there)
                self._positions[partition] = there[-1].offset + 1
                generation = self._cluster.generation
                chunks.append(Chunk(partition, [r._replace(timestamp=generation) for r in there]))
        if not chunks:
            await asyncio.sleep(0.2)
        return chunks

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        async with self._committing:
            ours = {p: offset for p, offset in offsets.items() if p in self._positions}
            return await self._commit(ours, self._cluster.generation)

    async def _commit(self, ours: Mapping[TopicPartition, int], generation: int) -> bool:
        await self._cluster.answer()
        fails = self._cluster.fails()
        takes_effect = not fails or self._cluster.rng.random() < 0.5
        if generation != self._cluster.generation:
            # The broker knows that we were put out meanwhile.
            return False
        if takes_effect:
            for partition, offset in ours.items():
                self._cluster.commit(partition, offset)
        if fails:
            return False
        self._committed.update(ours)
        return True

    @property
    def committed_offsets(self) -> Mapping[TopicPartition, int]:
        return {p: self._committed[p] for p in self._positions if p in self._committed}

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    async def stop(self) -> None:
        if self._rebalancing is not None:
            self._rebalancing.cancel()
            with suppress(asyncio.CancelledError):
                await self._rebalancing
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._cluster.answer()
        self.stopped = True

    def check_handed_over(self) -> None:
        """In a good world all that was delivered is written and committed, and comes but once."""
        world = self._cluster.world
        if world.failing or world.slow or world.options.drain_timeout_seconds < 20:
            return
        for partition, position in self._positions.items():
            delivered = [r.offset for r in self._cluster.logs[partition] if r.offset < position]
            place = (partition.partition, delivered[-1] if delivered else 0)
            if delivered and place not in self._cluster.written:
                raise BrokenInvariantError(f"{place} was delivered, and is not written")
            if delivered and self._cluster.committed.get(partition, 0) < position:
                raise BrokenInvariantError(f"{place} is written, and comes again")

    async def _rebalance(self, listener: AssignmentListener) -> None:
        """Be given partitions, lose all of them, be given some: as an eager group does."""
        cluster = self._cluster
        rng = cluster.rng
        await self._take(listener, list(cluster.logs))
        for number in range(self._rebalances):
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            ours = frozenset(self._positions)
            cluster.note("revoking", len(ours))
            self._revoking = True
            async with asyncio.timeout(_GROUP_WAITS_SECONDS):
                await listener.revoked(ours)
            self.check_handed_over()
            self._revoking = False
            async with self._committing:
                for partition in ours:
                    self._positions.pop(partition)
                    self._committed.pop(partition, None)
            cluster.generation += 1
            await cluster.answer()
            self._others_go_on()
            last = number == self._rebalances - 1
            kept = list(cluster.logs) if last else rng.sample(list(cluster.logs), rng.randint(
                0, len(cluster.logs)))  # fmt: skip
            await self._take(listener, kept)

    async def _take(self, listener: AssignmentListener, partitions: list[TopicPartition]) -> None:
        await self._cluster.answer()
        starts = {p: self._cluster.committed.get(p, 0) for p in partitions}
        await listener.assigned(frozenset(partitions))
        self._positions.update(starts)
        self._committed.update(starts)

    def _others_go_on(self) -> None:
        """Whoever had a partition meanwhile has written and committed some of it."""
        cluster = self._cluster
        for partition, log in cluster.logs.items():
            start = cluster.committed.get(partition, 0)
            for record in [r for r in log if r.offset >= start][: cluster.rng.choice((0, 0, 3))]:
                outcomes = SimulatedDecoder().decode(record)
                calls = [o for o in outcomes if not isinstance(o, Rejected | Skipped)]
                good = [c for c in calls if c.user_id != "poison"]
                bad = [Rejected(c.record, 0, "rejected_by_database", "") for c in calls
                       if c.user_id == "poison"]  # fmt: skip
                rejected = [o for o in outcomes if isinstance(o, Rejected)]
                cluster.store(Batch(good, [*rejected, *bad]))
                cluster.commit(partition, record.offset + 1)


class SimulatedSink:
    """The database; implements `consumer.ports.Sink`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._writing: set[int] = set()

    async def write(self, batch: Batch) -> Written:
        cluster = self._cluster
        if len(batch.calls) + len(batch.rejected) == 0:
            raise BrokenInvariantError("a transaction of nothing")
        lane = self._lane_of(batch)
        if lane in self._writing:
            raise BrokenInvariantError(f"two transactions at once of lane {lane}")
        self._writing.add(lane)
        users = {written.user_id for written in batch.calls}
        try:
            await self._answer()
            if cluster.fails():
                if cluster.rng.random() < 0.5 and "poison" not in users:
                    # A COMMIT that was cut: it took effect, and nobody knows.
                    cluster.store(batch)
                raise TransientSinkError("away")
            if "poison" in users:
                raise PermanentSinkError("refused")
            cluster.store(batch)
        finally:
            self._writing.remove(lane)
        return Written(len(batch.calls), 0, 0, len(batch.rejected))

    async def _answer(self) -> None:
        """As long as an answer takes; who is told to stop may be answered with an error."""
        try:
            await self._cluster.answer()
        except asyncio.CancelledError:
            if self._cluster.rng.random() < 0.5:
                raise TransientSinkError("the connection is gone") from None
            raise

    def _lane_of(self, batch: Batch) -> int:
        lanes = self._cluster.world.options.lanes
        found = {lane_of(written, lanes) for written in batch.calls}
        found |= {
            letter.record.partition % lanes
            for letter in batch.rejected
            # What the database refused was a call before.
            if letter.reason != "rejected_by_database"
        }
        found |= {
            lane_of(SimulatedDecoder().call_of(letter.record), lanes)
            for letter in batch.rejected
            if letter.reason == "rejected_by_database"
        }
        if len(found) != 1:
            raise BrokenInvariantError(f"a transaction of the lanes {found}")
        return found.pop()


class SimulatedDecoder:
    """Reads a record's value as its user, `bad` as malformed, nothing as a tombstone."""

    def decode(self, record: Record, expired_before: int | None = None) -> Sequence[Outcome]:
        del expired_before
        if record.value is None:
            return (Skipped("tombstone"),)
        if record.value == b"bad":
            return (Rejected(record, 0, "malformed_json", "not JSON"),)
        return (self.call_of(record),)

    def call_of(self, record: Record) -> Call:
        """The call that a record's user makes."""
        assert record.value is not None
        return call("track", record.offset, user_id=record.value.decode(), record=record)


class BoundedObserver(CountingObserver):
    """Sees to it that lanes are bounded."""

    def __init__(self, calls_max: int) -> None:
        super().__init__()
        self._calls_max = calls_max

    def lane_filled(self, lane: int, calls: int) -> None:
        if calls > self._calls_max:
            raise BrokenInvariantError(f"{calls} calls wait in lane {lane}")


def simulate(seed: int) -> list[str]:
    """Live through one story; gives its trace.

    Raises:
        BrokenInvariantError: What must never be has been; the same seed shows it again.
    """
    rng = random.Random(seed)
    world = drawn(rng)
    loop = SimulatedLoop()
    cluster = Cluster(rng, world)
    clock = SimpleNamespace(monotonic=loop.time, time=loop.time)
    chance = SimpleNamespace(random=rng.random)
    try:
        with (
            patch.object(pipeline_module, "time", clock),
            patch.object(pipeline_module, "random", chance),
            patch.object(pipeline_module, "log", _SILENT),
            asyncio.Runner(loop_factory=lambda: loop) as runner,
        ):
            runner.run(_story(cluster, world))
    finally:
        loop.close()
    return cluster.trace


_SILENT: Final[Any] = structlog.wrap_logger(
    None, processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)]
)


async def _story(cluster: Cluster, world: World) -> None:
    """A worker in a bad world, told to stop at any moment; then one in a good world."""
    worker, source = _worker(cluster, world, world.rebalances)
    running = asyncio.create_task(worker.run())
    stopping = asyncio.create_task(asyncio.sleep(world.stop_after_seconds))
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        worker.stop()
    options = world.options
    leaving = options.last_commit_timeout_seconds + _LEAVE_SECONDS
    seconds_max = options.drain_timeout_seconds + leaving + 0.5
    await _ends(running, seconds_max)
    if not source.stopped:
        raise BrokenInvariantError("the group was not left")
    if world.rebalances == 0:
        source.check_handed_over()
    cluster.note("another worker")
    cluster.generation += 1
    cluster.world = world._replace(failing=0.0, slow=0.0)
    other, _ = _worker(cluster, cluster.world, rebalances=0)
    running = asyncio.create_task(other.run())

    async def everything() -> None:
        while any(cluster.committed.get(p, 0) < cluster.end(p) for p in cluster.logs):
            await asyncio.sleep(0.05)
            if running.done():
                running.result()

    await _ends(asyncio.create_task(everything()), 60)
    other.stop()
    await _ends(running, seconds_max)
    everywhere = {(p.partition, r.offset): r.value for p, log in cluster.logs.items() for r in log}
    if lost := everywhere.keys() - cluster.written:
        raise BrokenInvariantError(f"lost: {lost}")
    dead = {place for place, value in everywhere.items() if value in (b"bad", b"poison")}
    if cluster.letters != dead:
        raise BrokenInvariantError(f"dead letters: {cluster.letters ^ dead}")


def _worker(cluster: Cluster, world: World, rebalances: int) -> tuple[Pipeline, SimulatedSource]:
    source = SimulatedSource(cluster, rebalances)
    # Room is asked for before a poll; and one poll more may be fetched before a pause.
    calls_max = world.options.lane_calls_max + 2 * world.options.poll_records_max
    observer = BoundedObserver(calls_max)
    decoder: Any = SimulatedDecoder()
    return Pipeline(
        source, SimulatedSink(cluster), decoder, observer, world.options, lambda: 1.0
    ), source


async def _ends(task: "asyncio.Task[None]", seconds_max: float) -> None:
    done, _ = await asyncio.wait((task,), timeout=seconds_max)
    if not done:
        raise BrokenInvariantError(f"no end within {seconds_max} s: {task.get_stack()}")
    task.result()
