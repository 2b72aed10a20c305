"""The consumer: records in, committed offsets out.

Four rules carry it:

- We keep our own position of each partition. A failed `getmany` may have drained other
  partitions and lost what it drained, so after any failure we seek back to our positions.
- Offsets are committed explicitly, only for partitions that are assigned, and never by the
  client on its own.
- `getmany` is never cancelled but by a pipeline that is leaving: a cancelled one can disable
  the client's poll watchdog.
- Each await on the broker has a deadline; a frozen broker must not keep us from leaving.

Source: aiokafka 0.14; KafkaConsumer javadoc, "Offsets and Consumer Position".
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import aiokafka
import structlog
from aiokafka import errors as kafka_errors
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.protocol.group import LeaveGroupRequest

from consumer.errors import RetentionError, SourceError
from consumer.kafka.access import check_access, explained
from consumer.kafka.connections import answer_of, join_patiently
from consumer.kafka.options import KafkaOptions, names_of, security_of
from consumer.ports import AssignmentListener, Chunk, TopicPartition

log = structlog.get_logger()

# How long a poll waits for the first record; records end the wait at once.
_POLL_WAIT_MS: Final = 200

# A broker's checksum error may be the wire's; after so many in a row it is the disk's.
_FAILURES_MAX: Final = 10


class SourceObserver(Protocol):
    """What the source tells the metrics."""

    def fetch_retried(self, reason: str) -> None:
        """A fetch failed and is tried again."""

    def rebalanced(self) -> None:
        """The group assigned its partitions anew."""

    def commit_failed(self) -> None:
        """A commit failed; a later one covers it."""

    def offset_reset(self, reason: str) -> None:
        """A partition went on from its earliest offset: `retention`, or `made_again`."""

    def topic_overtaken(self, topic: str) -> None:
        """Retention has dropped records that were not read; the worker stops."""


class KafkaSource:
    """Consumes as a member of a group; implements `consumer.ports.Source`."""

    def __init__(self, options: KafkaOptions, observer: SourceObserver) -> None:
        self._options = options
        self._observer = observer
        self._positions: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._paused = False
        self._failures = 0
        self._failure: SourceError | None = None
        self.waiting_for: str | None = None
        """Why Kafka has not let us in yet, in one line; None once it has."""
        self._listener: AssignmentListener | None = None
        # The client tries again by itself, and would let a later commit pass meanwhile.
        self._committing = asyncio.Lock()
        self._consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=options.bootstrap_servers,
            group_id=options.group_id,
            client_id="windsor",
            enable_auto_commit=False,
            # The default would skip what retention has overtaken, without a word.
            auto_offset_reset="none",
            isolation_level="read_committed",
            # One assignor: two cost a JoinGroup more. No static membership: two members of one
            # id would both believe that they own everything.
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            session_timeout_ms=options.session_timeout_ms,
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            max_poll_interval_ms=options.max_poll_interval_ms,
            max_partition_fetch_bytes=options.partition_fetch_bytes_max,
            fetch_max_bytes=options.fetch_bytes_max,
            fetch_max_wait_ms=100,
            request_timeout_ms=round(options.request_timeout_seconds * 1000),
            # Many in a session, so that some may be late; by them a rebalance is noticed, too.
            heartbeat_interval_ms=min(3_000, options.session_timeout_ms // 6),
            metadata_max_age_ms=options.metadata_age_ms_max,
            **security_of(options),
        )

    async def start(self, listener: AssignmentListener) -> None:
        """See `consumer.ports.Source.start`; waits for as long as the broker is away."""
        self._listener = listener
        attempt = 0
        while not await self._let_in():
            attempt += 1
            wait = self._wait_seconds(attempt)
            log.warning("kafka.waited_for", error=self.waiting_for, wait_seconds=wait)
            self._observer.fetch_retried("bootstrap")
            await asyncio.sleep(wait)
        topics = self._options.topics
        names: dict[str, Any] = (
            {"pattern": topics} if topics.startswith("^") else {"topics": names_of(topics)}
        )
        self._consumer.subscribe(**names, listener=_Rebalances(self, listener))

    async def _let_in(self) -> bool:
        """Connect, if Kafka lets us; what it has against us is said once more, or heals."""
        try:
            await check_access(self._options)
            await self._consumer.start()
        except SourceError as error:
            self.waiting_for = str(error)
        except kafka_errors.KafkaError as error:
            self.waiting_for = explained(error, self._options)
        else:
            join_patiently(self._consumer, self._options.answer_timeout_ms / 1000)
            self.waiting_for = None
        return self.waiting_for is None

    async def poll(self, records_max: int) -> Sequence[Chunk]:
        """See `consumer.ports.Source.poll`."""
        if self._failure is not None:
            raise self._failure
        try:
            fetched = await answer_of(
                self._consumer.getmany(timeout_ms=_POLL_WAIT_MS, max_records=records_max)
            )
        except kafka_errors.OffsetOutOfRangeError as error:
            await self._offsets_out_of_range(error)
            return ()
        except kafka_errors.NoOffsetForPartitionError:
            # The client looked before `take` had set the first position of a new group.
            return ()
        except (
            kafka_errors.TopicAuthorizationFailedError,
            kafka_errors.GroupAuthorizationFailedError,
        ) as error:
            # Taken away while we read: the next start waits until it is given back.
            raise SourceError(explained(error, self._options)) from error
        except kafka_errors.KafkaError as error:
            await self._fetch_failed(error)
            return ()
        self._check_fetching()
        self._failures = 0
        if not fetched and (self._paused or not self._consumer.assignment()):
            # With nothing to fetch from, getmany may return at once.
            await asyncio.sleep(_POLL_WAIT_MS / 1000 / 10)
        return [chunk for tp, records in fetched.items() for chunk in self._delivered(tp, records)]

    def _check_fetching(self) -> None:
        """See to it that the client still fetches: one that does not says nothing of it.

        Raises:
            SourceError: A task of the client has ended by a mistake of its own.
        """
        fetching = self._consumer._fetcher._fetch_task  # noqa: SLF001 - it does not tell
        if fetching.done() and not fetching.cancelled():
            raise SourceError(
                f"Kafka's client fetches no more: {fetching.exception()!r}: start the worker anew"
            )

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """See `consumer.ports.Source.commit`."""
        ours: dict[Any, int] = {}
        try:
            async with asyncio.timeout(self._options.request_timeout_seconds), self._committing:
                ours = {
                    aiokafka.TopicPartition(*partition): offset
                    for partition, offset in offsets.items()
                    if partition in self._positions
                }
                if ours:
                    self._check_membership()
                    await answer_of(self._consumer.commit(ours))
        except (kafka_errors.KafkaError, TimeoutError) as error:
            self._observer.commit_failed()
            log.warning("offsets.commit_failed", error=type(error).__name__)
            return False
        # May be less than before: a topic that is made again begins anew.
        self._committed.update((TopicPartition(*tp), offset) for tp, offset in ours.items())
        return True

    def _check_membership(self) -> None:
        """Refuse to commit for a group that has put us out.

        Without a generation a commit looks like that of a tool, which the broker takes while
        the group is empty: others may have gone on, and left, since.

        Raises:
            CommitFailedError: We are no member now.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - it does not tell
        if coordinator is not None and coordinator.generation < 0:
            raise kafka_errors.CommitFailedError("no member of the group any more")

    @property
    def committed_offsets(self) -> Mapping[TopicPartition, int]:
        """See `consumer.ports.Source.committed_offsets`."""
        return {p: self._committed[p] for p in self._positions if p in self._committed}

    def pause(self) -> None:
        """See `consumer.ports.Source.pause`."""
        self._paused = True
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """See `consumer.ports.Source.resume`."""
        self._paused = False
        self._consumer.resume(*self._consumer.paused())

    async def stop(self) -> None:
        """See `consumer.ports.Source.stop`."""
        try:
            async with asyncio.timeout(self._options.leave_timeout_seconds):
                await answer_of(self._consumer.stop())
        except Exception as error:  # noqa: BLE001 - also what has ended one of the client's tasks
            log.warning("kafka.left_in_haste", error=str(error) or type(error).__name__)
            await self._say_goodbye()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.goodbye_timeout_seconds):
                    # What the client's own stop did not reach.
                    await self._consumer._client.close()  # noqa: SLF001

    async def _say_goodbye(self) -> None:
        """Leave a group that is in a rebalance, so that the others need not wait for our session.

        The client asks for this on the connection on which it waits to be let in, and a broker
        answers one request of a connection after the other: so it goes by another one.
        """
        client, coordinator = self._consumer._client, self._consumer._coordinator  # noqa: SLF001 - it has no other way
        if coordinator is None or coordinator.coordinator_id is None or not coordinator.member_id:
            return
        goodbye = LeaveGroupRequest(self._options.group_id, coordinator.member_id)
        with suppress(kafka_errors.KafkaError, TimeoutError):
            async with asyncio.timeout(self._options.goodbye_timeout_seconds):
                await client.send(coordinator.coordinator_id, goodbye)

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """The broker's own end of each assigned partition, for the lag.

        The client's high watermark goes stale while a partition is paused.
        """
        assigned = self._consumer.assignment()
        if not assigned:
            return {}
        try:
            async with asyncio.timeout(self._options.request_timeout_seconds):
                ends = await answer_of(self._consumer.end_offsets(assigned))
        except (kafka_errors.KafkaError, TimeoutError):
            return {}
        return {TopicPartition(tp.topic, tp.partition): offset for tp, offset in ends.items()}

    async def answers(self) -> bool:
        """Whether a broker still answers, partitions or none."""
        client = self._consumer._client  # noqa: SLF001 - it tells only its log
        try:
            async with asyncio.timeout(self._options.request_timeout_seconds):
                return bool(await answer_of(client.force_metadata_update()))
        except (kafka_errors.KafkaError, TimeoutError):
            return False

    # Positions --------------------------------------------------------------------------

    def _delivered(self, tp: Any, records: Sequence[Any]) -> Sequence[Chunk]:  # noqa: ANN401 - aiokafka's
        partition = TopicPartition(tp.topic, tp.partition)
        position = self._positions.get(partition)
        if position is None:
            # Taken away while we were fetching.
            return ()
        # Gaps are normal (compaction, transaction markers); going back is not.
        fresh = [record for record in records if record.offset >= position]
        if not fresh:
            return ()
        self._positions[partition] = fresh[-1].offset + 1
        return (Chunk(partition, fresh),)

    async def _fetch_failed(self, error: kafka_errors.KafkaError) -> None:
        """Go back to our own positions: what was drained with the failure comes again."""
        self._failures += 1
        self._observer.fetch_retried(type(error).__name__)
        log.warning("fetch.failed", error=str(error), failures=self._failures)
        retriable = error.retriable or isinstance(error, kafka_errors.CorruptRecordException)
        if not retriable or self._failures > _FAILURES_MAX:
            raise SourceError(
                f"Kafka's records cannot be read: {error}: look at the broker's log"
            ) from error
        self._seek_back()
        await asyncio.sleep(self._wait_seconds(self._failures))

    def _seek_back(self) -> None:
        assigned = self._consumer.assignment()
        for partition, offset in self._positions.items():
            tp = aiokafka.TopicPartition(*partition)
            if tp in assigned:
                self._consumer.seek(tp, offset)

    async def _offsets_out_of_range(self, error: kafka_errors.OffsetOutOfRangeError) -> None:
        """Retention has overtaken us, or a topic was made again: say so, and never skip a record.

        Raises:
            RetentionError: Records are lost, and nobody has said that we may go on.
        """
        positions: dict[Any, int] = dict(error.args[0]) if error.args else {}
        self._seek_back()
        try:
            beginnings = await self._beginnings(list(positions))
        except (kafka_errors.KafkaError, TimeoutError) as failed:
            # The partitions are out of range still: the next fetch brings us here again.
            log.warning("offset.reset_failed", error=str(failed) or type(failed).__name__)
            self._observer.fetch_retried(type(failed).__name__)
            return
        overtaken = sorted(tp for tp, first in beginnings.items() if positions[tp] < first)
        if overtaken and not self._options.earliest_when_out_of_range:
            for topic in sorted({tp.topic for tp in overtaken}):
                self._observer.topic_overtaken(topic)
            lost = ", ".join(
                f"{tp.topic}/{tp.partition} from {positions[tp]} to {beginnings[tp] - 1}"
                for tp in overtaken
            )
            raise RetentionError(
                f"the topic's retention has overtaken the worker: records are lost, {lost}:"
                " set WINDSOR_KAFKA_OFFSET_OUT_OF_RANGE=earliest to go on with the rest"
            ) from error
        # Beyond the end: the topic was deleted and made again. What it holds is new, or changes
        # nothing. Its offsets begin anew, and with them what the pipeline keeps of them.
        again = frozenset(TopicPartition(*tp) for tp in beginnings if tp not in overtaken)
        if again and self._listener is not None:
            await self._listener.assigned(again)
        self._go_to(beginnings)
        for tp, first in beginnings.items():
            reason = "retention" if tp in overtaken else "made_again"
            self._observer.offset_reset(reason)
            log.warning(
                "offset.reset",
                topic=tp.topic,
                partition=tp.partition,
                reason=reason,
                from_offset=positions[tp],
                to_offset=first,
            )

    def _wait_seconds(self, attempt: int) -> float:
        return self._options.retry.wait_seconds(attempt, random.random())  # noqa: S311 - jitter

    async def _beginnings(self, partitions: Sequence[Any]) -> dict[Any, int]:
        async with asyncio.timeout(self._options.request_timeout_seconds):
            return dict(await self._consumer.beginning_offsets(partitions))

    def _go_to(self, offsets: Mapping[Any, int]) -> None:
        for tp, offset in offsets.items():
            self._consumer.seek(tp, offset)
            self._positions[TopicPartition(tp.topic, tp.partition)] = offset

    # Assignments ------------------------------------------------------------------------

    async def take(self, assigned: set[Any], listener: AssignmentListener) -> None:
        """Start partitions from their committed offset, or explicitly from the first."""
        self._observer.rebalanced()
        if self._paused:
            self._consumer.pause(*assigned)
        starts = await self._starts(assigned)
        await listener.assigned(frozenset(TopicPartition(*tp) for tp in assigned))
        # Last, and in one step: polls go on beside this callback, and what they deliver before
        # the listener knows the partition would count as read and be lost.
        self._go_to(starts)
        self._committed.update((TopicPartition(*tp), offset) for tp, offset in starts.items())

    async def _starts(self, assigned: set[Any]) -> dict[Any, int]:
        """Ask where to start, for as long as the broker is away: whoever leaves cancels this.

        Each time for longer than the client waits for an answer: it is that wait alone which
        makes a connection anew that is dead without a word, and no heartbeat goes by it now.
        """
        deadline = self._options.request_timeout_seconds + self._options.answer_timeout_ms / 1000
        attempt = 0
        while True:
            starts: dict[Any, int] = {}
            try:
                async with asyncio.timeout(deadline):
                    for tp in assigned:
                        if (committed := await self._consumer.committed(tp)) is not None:
                            starts[tp] = committed
                    if fresh := assigned - starts.keys():
                        starts |= await self._consumer.beginning_offsets(list(fresh))
            except (kafka_errors.KafkaError, TimeoutError) as error:
                if isinstance(error, kafka_errors.KafkaError) and not error.retriable:
                    raise
                attempt += 1
                wait = self._wait_seconds(attempt)
                reason = type(error).__name__
                self._observer.fetch_retried(reason)
                log.warning("assignment.retried", error=reason, wait_seconds=wait)
                await asyncio.sleep(wait)
            else:
                return starts

    async def give(self, revoked: set[Any], listener: AssignmentListener) -> None:
        """Let the pipeline drain and commit, then forget the partitions."""
        partitions = frozenset(TopicPartition(*tp) for tp in revoked)
        await listener.revoked(partitions)
        # A commit that is under way, or waits for one, ends before these can be ours again: in
        # our next generation it would take them back to where they were.
        async with self._committing:
            for partition in partitions:
                self._positions.pop(partition, None)
                self._committed.pop(partition, None)

    def fail(self, error: Exception) -> None:
        """Make the next poll raise: aiokafka only logs what its callbacks raise."""
        self._failure = SourceError(f"the assignment of partitions failed: {error!r}: start again")


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands aiokafka's callbacks on; what they raise must not be lost."""

    def __init__(self, source: KafkaSource, listener: AssignmentListener) -> None:
        self._source = source
        self._listener = listener

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        try:
            await self._source.give(revoked, self._listener)
        except Exception as error:
            self._source.fail(error)
            raise

    async def on_partitions_assigned(self, assigned: set[Any]) -> None:
        try:
            await self._source.take(assigned, self._listener)
        except Exception as error:
            self._source.fail(error)
            raise
