"""The pipeline between in-memory ends: order, bounds, commits, failures, handover."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from consumer.core.call import Outcome, Record, Rejected
from consumer.core.policy import BatchLimits
from consumer.core.valve import ValvePolicy
from consumer.errors import (
    DeadTopicError,
    PermanentSinkError,
    SchemaError,
    SourceError,
    TransientSinkError,
)
from consumer.pipeline import Pipeline, PipelineOptions, ready_reason
from consumer.ports import Batch, Chunk, TopicPartition, Written
from tests.core.calls import call
from tests.fakes import CountingObserver, FakeSink, FakeSource, chunk, pipeline_of

P0 = TopicPartition("calls", 0)
P1 = TopicPartition("calls", 1)


@asynccontextmanager
async def running(pipeline: Pipeline, *partitions: TopicPartition) -> AsyncIterator[None]:
    task = asyncio.create_task(pipeline.run())
    await asyncio.sleep(0)
    await pipeline.assigned(frozenset(partitions))
    try:
        yield
    finally:
        pipeline.stop()
        await asyncio.wait_for(task, 30)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - any condition of a test
            await asyncio.sleep(0.001)


async def test_written_records_are_committed_and_the_rest_is_counted() -> None:
    source, sink, observer = FakeSource(), FakeSink(), CountingObserver()
    async with running(pipeline_of(source, sink, observer), P0):
        source.chunks.append(chunk(5, b"jane", b"bad", None, b"joe"))
        await until(lambda: source.committed == {P0: 9})

    assert {call.user_id for call in sink.calls} == {"jane", "joe"}
    assert [letter.reason for letter in sink.rejected] == ["malformed_json"]
    assert observer.counts["tombstone"] == 1
    assert source.stopped


async def test_chunk_with_nothing_to_write_is_committed() -> None:
    source = FakeSource()
    async with running(pipeline_of(source, FakeSink()), P0):
        source.chunks.append(chunk(0, None, None))
        await until(lambda: source.committed == {P0: 2})


async def test_failed_commit_is_repeated_though_nothing_else_comes() -> None:
    source = FakeSource()
    source.commits_refused = 2
    async with running(pipeline_of(source, FakeSink()), P0):
        source.chunks.append(chunk(0, b"jane", b"joe"))
        await until(lambda: source.committed == {P0: 2})
    assert source.commits == [{P0: 2}] * 3


async def test_nothing_is_committed_before_it_is_written() -> None:
    source, sink = FakeSource(), FakeSink()
    async with running(pipeline_of(source, sink), P0):
        sink.gate.clear()
        source.chunks.extend([chunk(0, b"jane"), chunk(1, b"joe", b"jack")])
        await until(lambda: sink.writing > 0)
        await asyncio.sleep(0.05)
        assert source.commits == []
        sink.gate.set()
        await until(lambda: source.committed == {P0: 3})


async def test_one_users_calls_stay_in_order_and_a_lane_writes_one_batch_at_a_time() -> None:
    source, sink = FakeSource(), FakeSink()
    options = PipelineOptions(lanes=3)
    async with running(pipeline_of(source, sink, options=options), P0):
        for first in range(0, 300, 3):
            source.chunks.append(chunk(first, b"jane", b"joe", b"jack"))
        await until(lambda: source.committed == {P0: 300})

    assert sink.writing_max <= 3
    for user in ("jane", "joe", "jack"):
        offsets = [call.record.offset for call in sink.calls if call.user_id == user]
        assert offsets == sorted(offsets)
        assert len(offsets) == 100


async def test_lanes_are_bounded_and_a_long_wait_pauses_but_polls_on() -> None:
    source, sink, observer = FakeSource(), FakeSink(), CountingObserver()
    options = PipelineOptions(lanes=1, lane_calls_max=10, pause_after_seconds=0.01)
    pipeline = pipeline_of(source, sink, observer, options)
    async with running(pipeline, P0):
        sink.gate.clear()
        source.chunks.extend(chunk(first, *[b"jane"] * 5) for first in range(0, 200, 5))
        await until(lambda: source.paused)
        before = pipeline.progressed_at
        await until(lambda: pipeline.progressed_at > before)
        sink.gate.set()
        await until(lambda: source.committed == {P0: 200})

    assert observer.counts["lane_0_max"] < 10 + 5
    assert source.pauses >= 1
    assert not source.paused


async def test_lanes_are_bounded_in_bytes_too() -> None:
    source, sink, observer = FakeSource(), FakeSink(), CountingObserver()
    options = PipelineOptions(
        lanes=1, limits=BatchLimits(calls_max=1, bytes_max=5_000), pause_after_seconds=0.01
    )
    pipeline = pipeline_of(source, sink, observer, options)
    async with running(pipeline, P0):
        sink.gate.clear()
        source.chunks.extend(chunk(offset, b"j" * 1_000) for offset in range(100))
        await until(lambda: source.paused)
        waiting = observer.counts["lane_0_max"]
        sink.gate.set()
        await until(lambda: source.committed == {P0: 100})

    # Twice a batch, and one that overshoots.
    assert 10 <= waiting <= 12
    assert len(sink.calls) == 100


class SilentSink(FakeSink):
    """A server that says nothing more: what is cancelled ends with the connection's error."""

    async def write(self, batch: Batch) -> Written:
        self.writing += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise TransientSinkError("the connection is gone") from None
        raise AssertionError(batch)


async def test_stop_ends_though_a_cancelled_write_ends_as_an_outage() -> None:
    source, sink = FakeSource(), SilentSink()
    options = PipelineOptions(drain_timeout_seconds=0.05)
    async with running(pipeline_of(source, sink, options=options), P0):
        source.chunks.append(chunk(0, b"jane", b"joe"))
        await until(lambda: sink.writing > 0)
        tried = sink.writing

    assert (sink.writing, source.commits, source.stopped) == (tried, [], True)


async def test_poll_that_is_cancelled_from_within_is_no_stop() -> None:
    class Cancelled(FakeSource):
        async def poll(self, records_max: int) -> Sequence[Chunk]:
            del records_max
            raise asyncio.CancelledError

    with pytest.raises(SourceError, match="cancelled from within"):
        await asyncio.wait_for(pipeline_of(Cancelled(), FakeSink()).run(), 5)


async def test_outage_is_waited_for_and_loses_nothing() -> None:
    failures = iter([TransientSinkError("away")] * 5)

    def refuse(_: Batch) -> None:
        for failure in failures:
            raise failure

    source, sink, observer = FakeSource(), FakeSink(refuse), CountingObserver()
    pipeline = pipeline_of(source, sink, observer)
    async with running(pipeline, P0):
        source.chunks.append(chunk(0, b"jane", b"joe"))
        await until(lambda: source.committed == {P0: 2})
        assert ready_reason(pipeline) is None

    assert len(sink.calls) == 2
    assert sink.rejected == []
    assert observer.counts["retried_transient"] == 5


async def test_refused_call_alone_becomes_a_dead_letter() -> None:
    def refuse(batch: Batch) -> None:
        if any(call.user_id == "poison" for call in batch.calls):
            raise PermanentSinkError("Postgres refuses the data: 22P05")

    source, sink = FakeSource(), FakeSink(refuse)
    async with running(pipeline_of(source, sink, options=PipelineOptions(lanes=1)), P0):
        users = [b"jane", b"joe", b"poison", b"jack", b"bad"]
        source.chunks.append(chunk(0, *users))
        await until(lambda: source.committed == {P0: 5})

    assert {call.user_id for call in sink.calls} == {"jane", "joe", "jack"}
    assert {(letter.record.offset, letter.reason) for letter in sink.rejected} == {
        (2, "rejected_by_database"),
        (4, "malformed_json"),
    }


async def test_database_that_refuses_a_dead_letter_stops_the_worker() -> None:
    def refuse(_: Batch) -> None:
        raise PermanentSinkError("broken")

    source = FakeSource()
    pipeline = pipeline_of(source, FakeSink(refuse))
    task = asyncio.create_task(pipeline.run())
    await asyncio.sleep(0)
    await pipeline.assigned(frozenset({P0}))
    source.chunks.append(chunk(0, b"bad"))

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(task, 30)
    assert caught.group_contains(PermanentSinkError)
    assert source.commits == []


async def test_revoked_partition_is_drained_and_committed_before_the_handover() -> None:
    source, sink = FakeSource(), FakeSink()
    pipeline = pipeline_of(source, sink)
    async with running(pipeline, P0, P1):
        sink.gate.clear()
        source.chunks.extend([chunk(0, b"jane"), chunk(7, b"joe", partition=1)])
        await until(lambda: not source.chunks)
        handover = asyncio.create_task(pipeline.revoked(frozenset({P0})))
        await asyncio.sleep(0.02)
        assert not handover.done()
        sink.gate.set()
        await handover
        assert source.committed[P0] == 1
        # The other goes on; what is late of the one handed over is not committed.
        source.chunks.extend([chunk(1, b"jane"), chunk(8, b"joe", partition=1)])
        await until(lambda: source.committed.get(P1) == 9)
        assert source.committed[P0] == 1


async def test_handover_gives_up_at_its_deadline_and_abandons_what_waits() -> None:
    source, sink = FakeSource(), FakeSink()
    options = PipelineOptions(lanes=1, drain_timeout_seconds=0.05)
    pipeline = pipeline_of(source, sink, options=options)
    async with running(pipeline, P0):
        sink.gate.clear()
        source.chunks.append(chunk(0, b"jane"))
        await until(lambda: sink.writing == 1)
        source.chunks.append(chunk(1, b"joe"))
        await until(lambda: not source.chunks)
        await asyncio.sleep(0.01)
        await pipeline.revoked(frozenset({P0}))
        await pipeline.assigned(frozenset({P0}))
        sink.gate.set()
        # The next owner, here ourselves, starts from the committed offset.
        source.chunks.append(chunk(0, b"jane", b"joe"))
        await until(lambda: source.committed.get(P0) == 2)

    assert [call.user_id for call in sink.calls] == ["jane", "jane", "joe"]


async def test_chunk_of_a_partition_that_is_no_longer_ours_is_dropped() -> None:
    source, sink = FakeSource(), FakeSink()
    async with running(pipeline_of(source, sink), P0):
        source.chunks.extend([chunk(0, b"joe", partition=1), chunk(0, b"jane")])
        await until(lambda: source.committed == {P0: 1})

    assert [call.user_id for call in sink.calls] == ["jane"]


async def test_stop_drains_what_was_polled() -> None:
    source, sink = FakeSource(), FakeSink()
    pipeline = pipeline_of(source, sink)
    async with running(pipeline, P0):
        sink.gate.clear()
        source.chunks.append(chunk(0, b"jane", b"joe"))
        await until(lambda: sink.writing > 0)
        pipeline.stop()
        asyncio.get_running_loop().call_later(0.02, sink.gate.set)

    assert source.committed == {P0: 2}
    assert len(sink.calls) == 2


async def test_topic_that_is_mostly_dead_stops_the_worker_and_commits_what_came_before() -> None:
    source, sink, observer = FakeSource(), FakeSink(), CountingObserver()
    options = PipelineOptions(valve=ValvePolicy(share_max=0.5, window_records=4))
    pipeline = pipeline_of(source, sink, observer, options)
    task = asyncio.create_task(pipeline.run())
    await asyncio.sleep(0)
    await pipeline.assigned(frozenset({P0, P1}))
    sink.gate.clear()
    source.chunks.extend([
        chunk(0, b"jane", b"bad", b"bad"),
        chunk(7, b"joe", b"bad", partition=1),
        chunk(3, b"bad", b"jack"),
        chunk(9, b"jim", partition=1),
    ])  # fmt: skip
    await until(lambda: pipeline.refused is not None)
    assert not task.done()
    sink.gate.set()

    with pytest.raises(DeadTopicError) as caught:
        await asyncio.wait_for(task, 30)
    assert str(caught.value) == (
        "topic calls: more than 50% of its last 4 records are dead letters, mostly malformed_json,"
        " one of them at partition 1 offset 8: look whether WINDSOR_KAFKA_TOPICS or its producer is"
        " wrong;"
        " WINDSOR_DEAD_LETTERS_SHARE_MAX=1 sets them all aside and goes on"
    )
    # The chunk that closed it is neither written nor committed, nor is anything behind it.
    assert source.committed == {P0: 3}
    assert {call.user_id for call in sink.calls} == {"jane"}
    assert [letter.record.offset for letter in sink.rejected] == [1, 2]
    assert ready_reason(pipeline) == str(caught.value)
    assert (observer.shares, observer.counts["refused_calls"]) == ({"calls": 0.75}, 1)
    assert source.stopped


async def test_record_with_good_calls_beside_bad_ones_is_not_dead() -> None:
    class Mixed:
        def decode(self, record: Record, expired_before: int | None = None) -> Sequence[Outcome]:
            del expired_before
            refused = Rejected(record, 1, "missing_id", "nobody")
            return (refused, call("track", 0, user_id="jane", record=record), refused)

    source, observer = FakeSource(), CountingObserver()
    options = PipelineOptions(valve=ValvePolicy(share_max=0.0))
    pipeline = Pipeline(source, FakeSink(), Mixed(), observer, options)
    async with running(pipeline, P0):
        source.chunks.append(chunk(0, b"batch", b"batch"))
        await until(lambda: source.committed == {P0: 2})

    assert observer.shares == {"calls": 0.0}


async def test_topic_keeps_its_share_through_a_rebalance_and_loses_it_when_it_leaves() -> None:
    source, observer = FakeSource(), CountingObserver()
    pipeline = pipeline_of(source, FakeSink(), observer)
    async with running(pipeline, P0, P1):
        source.chunks.append(chunk(0, b"bad"))
        await until(lambda: source.committed == {P0: 1})
        await pipeline.revoked(frozenset({P0, P1}))
        await pipeline.assigned(frozenset({P1}))
        assert observer.shares == {"calls": 0.001}
        await pipeline.revoked(frozenset({P1}))
        await pipeline.assigned(frozenset())
        assert observer.shares == {}


async def test_stop_does_not_wait_for_a_poll_that_is_stuck() -> None:
    sink, stuck = FakeSink(), asyncio.Event()

    class Stuck(FakeSource):
        async def poll(self, records_max: int) -> Sequence[Chunk]:
            if not self.chunks:
                stuck.set()
                await asyncio.Event().wait()
            return await super().poll(records_max)

    source = Stuck()
    pipeline = pipeline_of(source, sink)
    async with running(pipeline, P0):
        sink.gate.clear()
        source.chunks.append(chunk(0, b"jane", b"joe"))
        await stuck.wait()
        pipeline.stop()
        asyncio.get_running_loop().call_later(0.02, sink.gate.set)

    assert source.committed == {P0: 2}
    assert source.stopped


async def test_stop_does_not_wait_long_for_the_last_commit() -> None:
    class Frozen(FakeSource):
        async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
            self.commits.append(dict(offsets))
            await asyncio.Event().wait()
            return True

    source = Frozen()
    options = PipelineOptions(last_commit_timeout_seconds=0.05)
    async with running(pipeline_of(source, FakeSink(), options=options), P0):
        source.chunks.append(chunk(0, b"jane"))
        await until(lambda: bool(source.commits))

    assert source.commits == [{P0: 1}, {P0: 1}]
    assert source.stopped


async def test_database_that_a_newer_version_took_over_ends_the_run_and_loses_nothing() -> None:
    def refuse(_: Batch) -> None:
        raise SchemaError("run the newer windsor")

    source, sink = FakeSource(), FakeSink(refuse)
    pipeline = pipeline_of(source, sink)
    source.chunks.append(chunk(0, b"jane"))
    task = asyncio.create_task(pipeline.run())
    await asyncio.sleep(0)
    await pipeline.assigned(frozenset({P0}))

    with pytest.raises(SchemaError, match="run the newer"):
        await asyncio.wait_for(task, 5)
    assert (source.committed, sink.rejected) == ({}, [])


async def test_source_that_fails_ends_the_run_with_its_error() -> None:
    source = FakeSource()
    source.failure = SourceError("committed offset out of range")

    with pytest.raises(SourceError, match="out of range"):
        await pipeline_of(source, FakeSink()).run()
    assert source.stopped
