"""The way of a record: partition, decode, lane, batch, transaction, watermark, commit.

    poll ─► decode ─► lane 0 ─► batch ─► transaction ─┐
                 └──► lane 1 ─► batch ─► transaction ─┴─► watermark ─► commit

`Pipeline.run` polls chunks and hands each call to the lane of its identity. A lane takes
whatever waits (nothing waits when idle), writes it in one transaction, and marks its share
of each span as finished. A committer commits the watermarks. Lanes are bounded: a full one
makes the poll loop wait, and a long wait pauses the partitions while polling goes on, so
that the group keeps us.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import structlog

from consumer.core.call import Call, Outcome, Record, Rejected
from consumer.core.policy import BatchLimits, RetryPolicy, expired_before, lane_of
from consumer.core.valve import Valve, ValvePolicy
from consumer.core.watermark import OffsetTracker, Span
from consumer.errors import (
    DeadTopicError,
    PermanentSinkError,
    SchemaError,
    SourceError,
    TransientSinkError,
)
from consumer.ports import Batch, Chunk, Read, Sink, Source, TopicPartition, Written

log = structlog.get_logger()


class Decode(Protocol):
    """The decoder of `consumer.core.decode`."""

    def decode(self, record: Record, expired_before: int | None = None) -> Sequence[Outcome]:
        """Turn a record into its outcomes; never raises."""


class Observer(Protocol):
    """What the pipeline tells the metrics; once a batch or a chunk, never a call."""

    def batch_written(
        self, lane: int, batch: Batch, written: Written, seconds: float, now: float
    ) -> None:
        """A transaction was committed; `now` is in seconds since the epoch."""

    def skipped(self, reasons: Mapping[str, int]) -> None:
        """Records or calls that are neither stored nor errors."""

    def write_retried(self, reason: str) -> None:
        """The database was away or busy."""

    def lane_filled(self, lane: int, calls: int) -> None:
        """So many calls wait in a lane."""

    def partitions_changed(self, assigned: int, *, paused: bool) -> None:
        """Partitions came or went, or were paused."""

    def dead_share_changed(self, topic: str, share: float) -> None:
        """So much of a topic's last records is dead, of 1."""

    def topic_refused(self, topic: str) -> None:
        """The safety valve has closed for a topic; the worker drains and stops."""

    def topics_left(self, topics: Sequence[str]) -> None:
        """No partition of these topics is ours any more."""


class PipelineOptions(NamedTuple):
    """The bounds of the pipeline; each wait has one."""

    lanes: int = 2
    limits: BatchLimits = BatchLimits()
    lane_calls_max: int = 10_000
    poll_records_max: int = 2_000
    retry: RetryPolicy = RetryPolicy()
    drain_timeout_seconds: float = 20.0
    last_commit_timeout_seconds: float = 2.0
    # A commit costs a round trip to the coordinator; ten a second bound redelivery well.
    commit_interval_seconds: float = 0.1
    # Ten seconds are far from the five minutes after which the group drops us.
    pause_after_seconds: float = 10.0
    retention_days: int | None = None
    valve: ValvePolicy = ValvePolicy()


class Share(NamedTuple):
    """One lane's part of a span."""

    tracker: OffsetTracker
    span: Span
    read: Read
    calls: list[Call]
    rejected: list[Rejected]
    size: int
    """Bytes of the calls and letters, as they came."""


class Lane:
    """An ordered, bounded queue for a slice of the users."""

    def __init__(self, number: int, calls_max: int, bytes_max: int) -> None:
        self.number = number
        self.calls_waiting = 0
        self._bytes_waiting = 0
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._shares: deque[Share] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, share: Share) -> None:
        """Append a share; ask `has_room` before."""
        self._shares.append(share)
        self.calls_waiting += _weight(share)
        self._bytes_waiting += share.size
        self._filled.set()
        if self._is_full():
            self._room.clear()

    def _is_full(self) -> bool:
        return self.calls_waiting >= self._calls_max or self._bytes_waiting >= self._bytes_max

    @property
    def has_room(self) -> bool:
        """Whether another share may be put; a share may overshoot a bound once."""
        return self._room.is_set()

    async def wait_for_room(self) -> None:
        """Return once there is room."""
        await self._room.wait()

    async def take(self, limits: BatchLimits) -> list[Share]:
        """Wait for shares, then take what waits, within the limits (at least one)."""
        while not self._shares:
            self._filled.clear()
            await self._filled.wait()
        taken: list[Share] = []
        calls = size = 0
        while self._shares:
            share = self._shares[0]
            calls += _weight(share)
            size += share.size
            if taken and (calls > limits.calls_max or size > limits.bytes_max):
                break
            taken.append(self._shares.popleft())
            self.calls_waiting -= _weight(share)
            self._bytes_waiting -= share.size
        if not self._is_full():
            self._room.set()
        return taken


class Pipeline:
    """Consumes a source into a sink until told to stop."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        decoder: Decode,
        observer: Observer,
        options: PipelineOptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._sink = sink
        self._decoder = decoder
        self._observer = observer
        self._options = options
        self._clock = clock
        self._lanes = [
            # A batch of the largest that waits behind the one being written, and as much again.
            Lane(n, options.lane_calls_max, 2 * options.limits.bytes_max)
            for n in range(options.lanes)
        ]
        self._trackers: dict[TopicPartition, OffsetTracker] = {}
        self._valve = Valve(options.valve)
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._paused = False
        self.started = False
        """Whether the source has let us in."""
        self.progressed_at = time.monotonic()
        """Monotonic seconds of the poll loop's last turn, for the liveness probe."""
        self.sink_failing_since: float | None = None
        """Monotonic seconds since when writes fail, None while they succeed."""
        self.refused: DeadTopicError | None = None
        """Why the safety valve has closed, None while it is open."""

    # The story --------------------------------------------------------------------------

    async def run(self) -> None:
        """Consume until `stop`, then drain, commit and leave the group.

        Raises:
            SourceError: Kafka cannot be consumed any more.
            SchemaError: The database is a newer version's by now.
            DeadTopicError: Most of a topic is dead letters; all that was read before is
                written and committed, and nothing else is.
        """
        try:
            await self._source.start(self)
            self.progressed_at = time.monotonic()
            self.started = True
            async with asyncio.TaskGroup() as tasks:
                lanes = [tasks.create_task(self._write_lane(lane)) for lane in self._lanes]
                committer = tasks.create_task(self._commit_watermarks())
                try:
                    await self._consume_until_stopped()
                except DeadTopicError as error:
                    # What was dispatched before is as good as ever.
                    self.refused = error
                # Stop polling, drain, flush, commit; the source is closed below.
                await self._drain(self._trackers)
                for task in (*lanes, committer):
                    task.cancel()
            with contextlib.suppress(TimeoutError):
                # A frozen broker would keep us; what is not committed is only delivered again.
                async with asyncio.timeout(self._options.last_commit_timeout_seconds):
                    await self._commit(self._trackers)
        except* (SourceError, SchemaError) as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._source.stop()
        if self.refused is not None:
            raise self.refused

    def stop(self) -> None:
        """Ask `run` to end; returns at once."""
        self._stopping.set()

    # Assignments ------------------------------------------------------------------------

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """See `consumer.ports.AssignmentListener`."""
        # A new tracker for each assignment: what an older one still writes cannot move it.
        self._trackers.update((partition, OffsetTracker()) for partition in partitions)
        # Here, not where they are revoked: a rebalance revokes all, and gives most of them back.
        gone = self._valve.keep({partition.topic for partition in self._trackers})
        self._observer.topics_left(gone)
        self._observer.partitions_changed(len(self._trackers), paused=self._paused)
        log.info("partitions.assigned", partitions_count=len(partitions))

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """See `consumer.ports.AssignmentListener`."""
        leaving = {p: self._trackers[p] for p in partitions if p in self._trackers}
        drained = await self._drain(leaving)
        # Commit before leaving: the next owner starts from the committed offset.
        await self._commit(leaving)
        for partition, tracker in leaving.items():
            tracker.abandon()
            self._trackers.pop(partition, None)
        self._observer.partitions_changed(len(self._trackers), paused=self._paused)
        log.info("partitions.revoked", partitions_count=len(partitions), drained=drained)

    # Polling and decoding ---------------------------------------------------------------

    async def _consume_until_stopped(self) -> None:
        """Consume; a stop is obeyed at once, also by a poll that waits for a rebalance."""
        consuming = asyncio.create_task(self._consume())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((consuming, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A poll may wait for a rebalance, or a frozen broker, for as long as it likes.
            # Cancelled, it may leave the client's watchdog broken and lose what it fetched:
            # that is acceptable here alone, since we are leaving. Our own positions are not
            # moved by it, so nothing of it is committed.
            for task in (consuming, stopping):
                task.cancel()
        await asyncio.wait((consuming,))
        if not consuming.cancelled():
            consuming.result()
        elif not self._stopping.is_set():
            # By nobody of us: an end without a reason would look like one that was asked for.
            raise SourceError("polling Kafka was cancelled from within: start the worker anew")

    async def _consume(self) -> None:
        while not self._stopping.is_set():
            self.progressed_at = time.monotonic()
            for chunk in await self._source.poll(self._options.poll_records_max):
                self._dispatch(chunk)
            if not await self._wait_for_room(self._options.pause_after_seconds):
                await self._sit_out()
            # One turn for the lanes: a poll that has records returns without waiting.
            await asyncio.sleep(0)

    def _dispatch(self, chunk: Chunk) -> None:
        """Decode a chunk and hand each lane its share."""
        tracker = self._trackers.get(chunk.partition)
        if tracker is None:
            # Taken away while the poll was answered; its next owner reads it again.
            return
        read = Read(chunk.partition, chunk.records[0].offset, self._clock())
        calls, rejected = self._decode(chunk)
        self._judge(chunk, calls, rejected)
        shares = [(n, calls[n], rejected[n]) for n in calls.keys() | rejected.keys()]
        span = tracker.start(read.first_offset, chunk.next_offset, len(shares))
        for n, lane_calls, lane_rejected in shares:
            lane = self._lanes[n]
            size = sum([call.size for call in lane_calls])
            size += sum([len(letter.record.value or b"") for letter in lane_rejected])
            lane.put(Share(tracker, span, read, lane_calls, lane_rejected, size))
            self._observer.lane_filled(n, lane.calls_waiting)
        if not shares:
            self._moved.set()

    def _decode(self, chunk: Chunk) -> tuple[dict[int, list[Call]], dict[int, list[Rejected]]]:
        calls: defaultdict[int, list[Call]] = defaultdict(list)
        rejected: defaultdict[int, list[Rejected]] = defaultdict(list)
        skipped: dict[str, int] = {}
        lanes = self._options.lanes
        expired = expired_before(int(self._clock() * 1e6), self._options.retention_days)
        for record in chunk.records:
            for outcome in self._decoder.decode(record, expired):
                if isinstance(outcome, Call):
                    calls[lane_of(outcome, lanes)].append(outcome)
                elif isinstance(outcome, Rejected):
                    rejected[chunk.partition.partition % lanes].append(outcome)
                else:
                    skipped[outcome.reason] = skipped.get(outcome.reason, 0) + 1
        if skipped:
            self._observer.skipped(skipped)
        return calls, rejected

    def _judge(
        self,
        chunk: Chunk,
        calls: Mapping[int, Sequence[Call]],
        rejected: Mapping[int, Sequence[Rejected]],
    ) -> None:
        """Close the safety valve if the topic is mostly dead.

        Raises:
            DeadTopicError: The chunk must not be dispatched, nor anything after it: it is not
                committed then, and the next worker reads it again.
        """
        topic = chunk.partition.topic
        dead: list[int] = []
        if rejected:
            refused = {letter.record.offset for letters in rejected.values() for letter in letters}
            refused -= {call.record.offset for lane_calls in calls.values() for call in lane_calls}
            dead = [n for n, record in enumerate(chunk.records) if record.offset in refused]
        open_ = self._valve.admits(topic, len(chunk.records), dead)
        self._observer.dead_share_changed(topic, self._valve.share(topic))
        if open_:
            return
        self._observer.topic_refused(topic)
        reasons = Counter(letter.reason for letters in rejected.values() for letter in letters)
        reason = reasons.most_common(1)[0][0]
        log.error("topic.refused", topic=topic, reason=reason, share=self._valve.share(topic))
        share_max, window_records = self._options.valve
        raise DeadTopicError(
            f"topic {topic}: more than {share_max:.0%} of its last {window_records:,} records"
            f" are dead letters, mostly {reason}, one of them at partition"
            f" {chunk.partition.partition} offset {chunk.records[dead[0]].offset}: look whether"
            " WINDSOR_KAFKA_TOPICS or its producer is wrong; WINDSOR_DEAD_LETTERS_SHARE_MAX=1 sets"
            " them all aside and goes on"
        )

    async def _wait_for_room(self, seconds: float) -> bool:
        """Wait until every lane has room; the wait is the backpressure."""
        if all(lane.has_room for lane in self._lanes):
            return True
        waits = [lane.wait_for_room() for lane in self._lanes]
        return await _within(asyncio.gather(*waits), seconds, self._stopping)

    async def _sit_out(self) -> None:
        """Pause the partitions but keep polling, until the lanes have room again.

        A consumer that does not poll for five minutes is put out of the group.
        """
        self._set_paused(paused=True)
        while not self._stopping.is_set() and not await self._wait_for_room(1.0):
            self.progressed_at = time.monotonic()
            for chunk in await self._source.poll(self._options.poll_records_max):
                # Fetched before the pause took hold; bounded by one poll.
                self._dispatch(chunk)
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        self._paused = paused
        (self._source.pause if paused else self._source.resume)()
        self._observer.partitions_changed(len(self._trackers), paused=paused)
        log.warning("consumption.paused") if paused else log.info("consumption.resumed")

    # Writing ------------------------------------------------------------------------------

    async def _write_lane(self, lane: Lane) -> None:
        """Write what waits in a lane, one transaction at a time, for ever."""
        while True:
            shares = await lane.take(self._options.limits)
            shares = [share for share in shares if not share.span.abandoned]
            if not shares:
                continue
            batch = Batch(
                list(chain.from_iterable(share.calls for share in shares)),
                list(chain.from_iterable(share.rejected for share in shares)),
                [share.read for share in shares],
            )
            await self._write_until_done(lane.number, batch, shares)
            for share in shares:
                if share.tracker.finish(share.span):
                    self._moved.set()
            self._observer.lane_filled(lane.number, lane.calls_waiting)

    async def _write_until_done(
        self, lane: int, batch: Batch, shares: Sequence[Share] = ()
    ) -> None:
        """Write a batch: wait out the world's failures, bisect the data's."""
        attempt = 0
        while True:
            started = time.monotonic()
            try:
                written = await self._sink.write(batch)
            except TransientSinkError as error:
                _obey_cancellation()
                attempt += 1
                if self.sink_failing_since is None:
                    self.sink_failing_since = started
                self._observer.write_retried("transient")
                wait = self._options.retry.wait_seconds(attempt, random.random())  # noqa: S311 - jitter
                log.warning(
                    "batch.retried", lane=lane, attempt=attempt, wait_seconds=wait, error=str(error)
                )
                await asyncio.sleep(wait)
                if shares and all(share.span.abandoned for share in shares):
                    # The partitions have a new owner, who writes this.
                    return
            except PermanentSinkError as error:
                _obey_cancellation()
                # The database answers, be it with a refusal.
                self.sink_failing_since = None
                await self._bisect(lane, batch, shares, error)
                return
            else:
                self.sink_failing_since = None
                self._observer.batch_written(
                    lane, batch, written, time.monotonic() - started, self._clock()
                )
                return

    async def _bisect(
        self, lane: int, batch: Batch, shares: Sequence[Share], error: PermanentSinkError
    ) -> None:
        """Halve a refused batch until the offending call alone is a dead letter."""
        calls, rejected, reads = batch
        if len(calls) > 1:
            half = len(calls) // 2
            await self._write_until_done(lane, Batch(calls[:half], [], reads), shares)
            await self._write_until_done(lane, Batch(calls[half:], rejected, reads), shares)
        elif calls:
            (call,) = calls
            refused = Rejected(call.record, call.position, "rejected_by_database", str(error))
            log.warning("call.refused", lane=lane, topic=call.record.topic, error=str(error))
            await self._write_until_done(lane, Batch([], [*rejected, refused], reads), shares)
        else:
            # Dead letters hold raw bytes and checked text: a refusal is our own mistake.
            raise error

    # Draining and committing ----------------------------------------------------------------

    async def _drain(self, trackers: Mapping[TopicPartition, OffsetTracker]) -> bool:
        """Wait until nothing of these partitions is in flight; False on the deadline."""
        deadline = time.monotonic() + self._options.drain_timeout_seconds
        while any(tracker.spans_in_flight for tracker in trackers.values()):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _commit_watermarks(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            if await self._commit(self._trackers):
                await asyncio.sleep(self._options.commit_interval_seconds)
            else:
                # Again, though nothing else may come: the lag is not gone before.
                self._moved.set()
                await asyncio.sleep(self._options.retry.seconds_max)

    async def _commit(self, trackers: Mapping[TopicPartition, OffsetTracker]) -> bool:
        """Commit the watermarks that have moved; False if the broker did not take them."""
        committed = self._source.committed_offsets
        offsets = {
            partition: tracker.watermark
            for partition, tracker in trackers.items()
            if tracker.watermark is not None and tracker.watermark != committed.get(partition)
        }
        return not offsets or await self._source.commit(offsets)


def _obey_cancellation() -> None:
    """End a task that was told to, though what it was doing ended in some other way.

    A statement that is cancelled on a connection that has gone may end with the connection's
    error, which is no reason to try again.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _weight(share: Share) -> int:
    return len(share.calls) + len(share.rejected)


async def _within(awaitable: Awaitable[object], seconds: float, stopping: asyncio.Event) -> bool:
    """Wait for something, at most so long, and not after a stop; tell whether it came."""
    waiting = asyncio.ensure_future(awaitable)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((waiting, stop), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return waiting.done()
    finally:
        for task in (waiting, stop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def ready_reason(pipeline: Pipeline, failing_seconds_max: float = 5.0) -> str | None:
    """Why the pipeline is not ready, None if it is."""
    if pipeline.refused is not None:
        return str(pipeline.refused)
    since = pipeline.sink_failing_since
    if since is not None and time.monotonic() - since > failing_seconds_max:
        return "the database cannot be written to"
    return None
