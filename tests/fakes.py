"""In-memory ends for the pipeline: a source that is fed by hand, a sink that obeys."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

from consumer.core.call import Call, Outcome, Record, Rejected, Skipped
from consumer.core.policy import RetryPolicy
from consumer.errors import SourceError
from consumer.pipeline import Pipeline, PipelineOptions
from consumer.ports import AssignmentListener, Batch, Chunk, TopicPartition, Written
from tests.core.calls import HandRecord, call

QUICK_RETRY = RetryPolicy(initial_seconds=0.001, seconds_max=0.002)


class FakeSource:
    """Delivers chunks that a test puts in; remembers commits."""

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self.commits: list[dict[TopicPartition, int]] = []
        self.committed: dict[TopicPartition, int] = {}
        self.commits_refused = 0
        self.paused = False
        self.pauses = 0
        self.stopped = False
        self.failure: SourceError | None = None
        self.listener: AssignmentListener | None = None

    async def start(self, listener: AssignmentListener) -> None:
        self.listener = listener

    async def poll(self, records_max: int) -> Sequence[Chunk]:
        assert records_max > 0
        if self.failure is not None:
            raise self.failure
        if self.chunks and not self.paused:
            return [self.chunks.popleft()]
        await asyncio.sleep(0.002)
        return []

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        self.commits.append(dict(offsets))
        if self.commits_refused > 0:
            self.commits_refused -= 1
            return False
        self.committed.update(offsets)
        return True

    @property
    def committed_offsets(self) -> Mapping[TopicPartition, int]:
        return self.committed

    def pause(self) -> None:
        self.paused = True
        self.pauses += 1

    def resume(self) -> None:
        self.paused = False

    async def stop(self) -> None:
        self.stopped = True


class FakeSink:
    """Writes to a list, once `gate` is open; `refuse` may raise for a batch."""

    def __init__(self, refuse: Callable[[Batch], None] = lambda _: None) -> None:
        self.calls: list[Call] = []
        self.rejected: list[Rejected] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.writing = 0
        self.writing_max = 0
        self.refuse = refuse

    async def write(self, batch: Batch) -> Written:
        self.writing += 1
        self.writing_max = max(self.writing_max, self.writing)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            self.refuse(batch)
            self.calls.extend(batch.calls)
            self.rejected.extend(batch.rejected)
        finally:
            self.writing -= 1
        return Written(len(batch.calls), 0, 0, len(batch.rejected))


class HandDecoder:
    """Reads a record's value as what a test means: a user, `bad` or nothing."""

    def decode(self, record: Record, expired_before: int | None = None) -> Sequence[Outcome]:
        assert expired_before is None
        if record.value is None:
            return (Skipped("tombstone"),)
        if record.value == b"bad":
            return (Rejected(record, 0, "malformed_json", "not JSON"),)
        user_id, size = record.value.decode(), len(record.value)
        return (call("track", record.offset, user_id=user_id, record=record, size=size),)


class CountingObserver:
    """Counts what the pipeline tells."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.shares: dict[str, float] = {}

    def batch_written(
        self, lane: int, batch: Batch, written: Written, seconds: float, now: float
    ) -> None:
        assert lane >= 0
        assert seconds >= 0
        assert now > 0
        self.counts["batches"] += 1
        self.counts["calls"] += written.calls_new
        self.counts["dead_letters"] += len(batch.rejected)

    def skipped(self, reasons: Mapping[str, int]) -> None:
        for reason, count in reasons.items():
            self.counts[reason] += count

    def write_retried(self, reason: str) -> None:
        self.counts[f"retried_{reason}"] += 1

    def lane_filled(self, lane: int, calls: int) -> None:
        self.counts[f"lane_{lane}_max"] = max(self.counts[f"lane_{lane}_max"], calls)

    def partitions_changed(self, assigned: int, *, paused: bool) -> None:
        self.counts["assigned"] = assigned
        self.counts["paused"] = paused

    def dead_share_changed(self, topic: str, share: float) -> None:
        self.shares[topic] = share

    def topic_refused(self, topic: str) -> None:
        self.counts[f"refused_{topic}"] += 1

    def topics_left(self, topics: Sequence[str]) -> None:
        for topic in topics:
            del self.shares[topic]


def chunk(first: int, *values: bytes | None, partition: int = 0) -> Chunk:
    """Consecutive records from an offset on."""
    return Chunk(
        TopicPartition("calls", partition),
        [HandRecord(first + n, partition=partition, value=value) for n, value in enumerate(values)],
    )


def pipeline_of(
    source: FakeSource,
    sink: FakeSink,
    observer: CountingObserver | None = None,
    options: PipelineOptions | None = None,
) -> Pipeline:
    """A pipeline between fakes that does not wait long for anything."""
    options = options or PipelineOptions()
    options = options._replace(retry=QUICK_RETRY, commit_interval_seconds=0.001)
    return Pipeline(source, sink, HandDecoder(), observer or CountingObserver(), options)
