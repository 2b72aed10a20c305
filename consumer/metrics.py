"""All metrics of the worker; `docs/metrics.md` explains each, and a test holds it.

Prefix `windsor_`, base units, no label that could name a user. The pipeline and the Kafka edge
report once a batch or a chunk, never once a call.
"""

from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from consumer.core.call import CallType, RejectReason, SkipReason
from consumer.ports import Batch, TopicPartition, Written

# From one batch on an idle machine to a worker that comes back after a long outage.
_FRESHNESS_BUCKETS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)
_DURATION_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_BUCKETS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)


class BulkHistogram(Collector):
    """A histogram that takes a batch of observations in one step.

    The client library's takes them one at a time, which costs more than decoding a call.
    """

    def __init__(self, name: str, documentation: str, buckets: Iterable[float]) -> None:
        self._name = name
        self._documentation = documentation
        # As floats, so that `le` reads `1.0` as the client library's does.
        self._bounds = (*map(float, buckets), float("inf"))
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, values: Iterable[float]) -> None:
        """Count each value in the first bucket that holds it."""
        ordered = sorted(values)
        below = 0
        for bucket, bound in enumerate(self._bounds):
            up_to = bisect_right(ordered, bound, below)
            self._counts[bucket] += up_to - below
            below = up_to
        self._sum += sum(ordered)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Give the cumulative counts that Prometheus wants."""
        total = 0
        buckets = []
        for bound, count in zip(self._bounds, self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        yield HistogramMetricFamily(
            self._name, self._documentation, buckets=buckets, sum_value=self._sum
        )


class Metrics:
    """The metrics of one worker, in a registry of its own.

    Implements `consumer.pipeline.Observer`, `consumer.kafka.SourceObserver` and
    `consumer.retention.UpkeepObserver`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._lag_records = Gauge(
            "windsor_lag_records",
            "Records of a partition that are not committed yet.",
            ["topic", "partition"],
            registry=registry,
        )
        self._lag_seconds = Gauge(
            "windsor_lag_seconds",
            "Age of the newest call written from a partition that has lag, else 0.",
            ["topic", "partition"],
            registry=registry,
        )
        self._freshness = BulkHistogram(
            "windsor_freshness_seconds",
            "From a record's Kafka timestamp to its commit in Postgres.",
            _FRESHNESS_BUCKETS,
        )
        registry.register(self._freshness)
        self._batch_calls = Histogram(
            "windsor_batch_calls",
            "Calls in one transaction.",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "windsor_batch_duration_seconds",
            "Duration of one transaction, its retries inside included.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._calls = Counter(
            "windsor_calls_total",
            "Calls committed, by type, duplicates included.",
            ["type"],
            registry=registry,
        )
        self._stored = Counter(
            "windsor_calls_stored_total",
            "Calls committed, by outcome: new, or duplicate of one stored before.",
            ["outcome"],
            registry=registry,
        )
        self._skipped = Counter(
            "windsor_skipped_total",
            "Records and calls neither stored nor errors, by reason.",
            ["reason"],
            registry=registry,
        )
        self._dead_letters = Counter(
            "windsor_dead_letters_total", "Dead letters, by reason.", ["reason"], registry=registry
        )
        self._dead_share = Gauge(
            "windsor_dead_letters_share",
            "Dead records among a topic's last WINDSOR_DEAD_LETTERS_WINDOW_RECORDS, of 1.",
            ["topic"],
            registry=registry,
        )
        self._refused_topic = Gauge(
            "windsor_topic_refused",
            "1 once the safety valve has closed for a topic: the worker stops.",
            ["topic"],
            registry=registry,
        )
        self._replaced = Counter(
            "windsor_timestamps_replaced_total",
            "Calls whose implausible timestamp was replaced by the record's.",
            registry=registry,
        )
        self._merges = Counter(
            "windsor_merges_total", "Users merged into another.", registry=registry
        )
        self._retries = Counter(
            "windsor_retries_total",
            "What was tried again because the other side was away, by side and reason.",
            ["side", "reason"],
            registry=registry,
        )
        self._attempts = Counter(
            "windsor_transactions_restarted_total",
            "Transactions begun again: a duplicate was met, or others wrote meanwhile.",
            registry=registry,
        )
        self._rebalances = Counter(
            "windsor_rebalances_total", "Assignments by the group.", registry=registry
        )
        self._commit_failures = Counter(
            "windsor_commit_failures_total",
            "Offset commits that failed; a later one covers them.",
            registry=registry,
        )
        self._offset_resets = Counter(
            "windsor_offset_resets_total",
            "Partitions set to their earliest offset: by retention, or their topic made again.",
            ["reason"],
            registry=registry,
        )
        self._overtaken_topic = Gauge(
            "windsor_topic_overtaken",
            "1 once retention has dropped records of a topic that were not read: the worker stops.",
            ["topic"],
            registry=registry,
        )
        self._assigned = Gauge(
            "windsor_partitions_assigned", "Partitions that are ours.", registry=registry
        )
        self._paused = Gauge(
            "windsor_partitions_paused",
            "Partitions paused since the database does not keep up.",
            registry=registry,
        )
        self._lane_calls = Gauge(
            "windsor_lane_calls", "Calls that wait in a lane.", ["lane"], registry=registry
        )
        self._pool = Gauge(
            "windsor_database_connections",
            "Connections of the pool, by state.",
            ["state"],
            registry=registry,
        )
        self._tasks = Gauge(
            "windsor_tasks",
            "Tasks of the event loop: a steady number, or one leaks.",
            registry=registry,
        )
        self._weeks_pruned = Counter(
            "windsor_weeks_pruned_total",
            "Weeks from which the retention dropped calls.",
            registry=registry,
        )
        self._calls_pruned = Counter(
            "windsor_calls_pruned_total",
            "Track, page and screen calls that the retention dropped.",
            registry=registry,
        )
        self._last_timestamps: dict[TopicPartition, float] = {}
        # A series that is born with its first event has no increase then: these are there from 0.
        for counter, values in (
            (self._calls, get_args(CallType)),
            (self._stored, ("new", "duplicate")),
            (self._skipped, get_args(SkipReason)),
            (self._dead_letters, get_args(RejectReason)),
            (self._offset_resets, ("retention", "made_again")),
        ):
            for value in values:
                counter.labels(value)
        for reason in ("transient", "connect", "upkeep"):
            self._retries.labels("postgres", reason)

    # The pipeline's -----------------------------------------------------------------------

    def batch_written(
        self, lane: int, batch: Batch, written: Written, seconds: float, now: float
    ) -> None:
        """See `consumer.pipeline.Observer`."""
        calls = batch.calls
        self._batch_calls.observe(len(calls))
        self._batch_seconds.observe(seconds)
        # Once a record; -1 is a record without a timestamp.
        stamped = [call.record for call in calls if not call.position]
        ages = [now - record.timestamp / 1000 for record in stamped if record.timestamp >= 0]
        self._freshness.observe(ages if min(ages, default=0) >= 0 else [max(0, a) for a in ages])
        for type_, count in Tally([call.type for call in calls]).items():
            self._calls.labels(type_).inc(count)
        self._stored.labels("new").inc(written.calls_new)
        self._stored.labels("duplicate").inc(written.calls_duplicate)
        self._replaced.inc(sum([call.timestamp_replaced for call in calls]))
        for reason, count in Tally(letter.reason for letter in batch.rejected).items():
            self._dead_letters.labels(reason).inc(count)
        self._merges.inc(written.merges)
        self._attempts.inc(written.attempts - 1)
        # A batch mixes partitions: the last call of each.
        last = {
            (record.topic, record.partition): record.timestamp
            for record in [call.record for call in calls]
            if record.timestamp >= 0
        }
        for partition, timestamp_ms in last.items():
            self._last_timestamps[TopicPartition(*partition)] = timestamp_ms / 1000
        del lane

    def skipped(self, reasons: Mapping[str, int]) -> None:
        """See `consumer.pipeline.Observer`."""
        for reason, count in reasons.items():
            self._skipped.labels(reason).inc(count)

    def write_retried(self, reason: str) -> None:
        """See `consumer.pipeline.Observer`."""
        self._retries.labels("postgres", reason).inc()

    def lane_filled(self, lane: int, calls: int) -> None:
        """See `consumer.pipeline.Observer`."""
        self._lane_calls.labels(lane).set(calls)

    def partitions_changed(self, assigned: int, *, paused: bool) -> None:
        """See `consumer.pipeline.Observer`."""
        self._assigned.set(assigned)
        self._paused.set(assigned if paused else 0)

    def dead_share_changed(self, topic: str, share: float) -> None:
        """See `consumer.pipeline.Observer`."""
        self._dead_share.labels(topic).set(share)

    def topic_refused(self, topic: str) -> None:
        """See `consumer.pipeline.Observer`."""
        self._refused_topic.labels(topic).set(1)

    def topics_left(self, topics: Sequence[str]) -> None:
        """See `consumer.pipeline.Observer`."""
        for topic in topics:
            self._dead_share.remove(topic)

    # The Kafka edge's ---------------------------------------------------------------------

    def fetch_retried(self, reason: str) -> None:
        """See `consumer.kafka.SourceObserver`."""
        self._retries.labels("kafka", reason).inc()

    def rebalanced(self) -> None:
        """See `consumer.kafka.SourceObserver`."""
        self._rebalances.inc()

    def commit_failed(self) -> None:
        """See `consumer.kafka.SourceObserver`."""
        self._commit_failures.inc()

    def offset_reset(self, reason: str) -> None:
        """See `consumer.kafka.SourceObserver`."""
        self._offset_resets.labels(reason).inc()

    def topic_overtaken(self, topic: str) -> None:
        """See `consumer.kafka.SourceObserver`."""
        self._overtaken_topic.labels(topic).set(1)

    # The upkeep's -------------------------------------------------------------------------

    def week_pruned(self, calls: int) -> None:
        """See `consumer.retention.UpkeepObserver`."""
        self._weeks_pruned.inc()
        self._calls_pruned.inc(calls)

    # Measured now and then ----------------------------------------------------------------

    def set_lag(
        self,
        ends: Mapping[TopicPartition, int],
        committed: Mapping[TopicPartition, int],
        now: float,
    ) -> None:
        """Set the lag of each partition that is ours; others lose their series."""
        self._lag_records.clear()
        self._lag_seconds.clear()
        for partition, end in ends.items():
            if partition not in committed:
                continue
            lag = max(0, end - committed[partition])
            labels = (partition.topic, str(partition.partition))
            self._lag_records.labels(*labels).set(lag)
            age = now - self._last_timestamps.get(partition, now)
            self._lag_seconds.labels(*labels).set(max(0.0, age) if lag else 0)

    def set_pool(self, size: int, idle: int) -> None:
        """Set the connections of the pool."""
        self._pool.labels("idle").set(idle)
        self._pool.labels("busy").set(size - idle)

    def set_tasks(self, count: int) -> None:
        """Set the tasks of the event loop."""
        self._tasks.set(count)
