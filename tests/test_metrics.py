"""What `/metrics` says equals what the broker and the database say."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import get_args

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import HistogramMetricFamily

from consumer.core.call import Call, CallType, Rejected, RejectReason, SkipReason
from consumer.metrics import BulkHistogram, Metrics
from consumer.ports import Batch, TopicPartition, Written
from tests.core.calls import HandRecord, call
from tests.worker import PRODUCED_MS, Worker, produce, until_consumed, working

BUCKETS = (0.005, 0.01, 0.5, 1, 2.5, 60, 3600)


def fresh_metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def samples(registry: CollectorRegistry, prefix: str) -> dict[str, float]:
    """All samples of our own, by name and labels; `_created` is when, not what."""
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith(prefix) and not sample.name.endswith("_created")
    }


def written(calls_new: int, dead_letters: int = 0) -> Written:
    return Written(calls_new, calls_duplicate=0, merges=0, dead_letters=dead_letters)


def at(offset: int, timestamp_ms: int) -> Call:
    return call("track", offset, user_id="u", record=HandRecord(offset, timestamp=timestamp_ms))


# The histogram ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_bulk_histogram_equals_the_client_librarys(seed: int) -> None:
    rng = random.Random(seed)
    # The bounds themselves, just beside them, and everything between.
    edges = [bound + nudge for bound in BUCKETS for nudge in (-1e-4, 0, 1e-4)]
    observations = [0.0, 1e9, *edges, *(10 ** rng.uniform(-4, 5) for _ in range(500))]
    rng.shuffle(observations)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("seconds", "Seconds.", BUCKETS)
    ours.register(bulk)
    reference = Histogram("seconds", "Seconds.", buckets=BUCKETS, registry=theirs)

    for start in range(0, len(observations), 70):
        bulk.observe(observations[start : start + 70])
    for observation in observations:
        reference.observe(observation)

    assert samples(ours, "seconds") == pytest.approx(samples(theirs, "seconds"), rel=1e-12)


def test_bulk_histogram_without_observations_equals_the_client_librarys() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    ours.register(BulkHistogram("seconds", "Seconds.", BUCKETS))
    Histogram("seconds", "Seconds.", buckets=BUCKETS, registry=theirs)
    assert samples(ours, "seconds") == samples(theirs, "seconds")


def test_bulk_histogram_shows_one_family() -> None:
    (family,) = BulkHistogram("seconds", "Seconds.", BUCKETS).collect()
    assert isinstance(family, HistogramMetricFamily)
    assert (family.name, family.documentation) == ("seconds", "Seconds.")


def test_freshness_is_the_records_age_at_its_commit() -> None:
    metrics = fresh_metrics()
    calls = [at(0, 1_000_000), at(1, 1_000_500), at(2, 1_002_500)]
    metrics.batch_written(0, Batch(calls, []), written(3), 0.02, now=1_002.0)

    shown = samples(metrics.registry, "windsor_freshness_seconds")
    # 2 s, 1.5 s, and a clock ahead of ours: never negative.
    assert shown["windsor_freshness_seconds_sum"] == pytest.approx(3.5)
    assert shown["windsor_freshness_seconds_count"] == 3
    assert shown["windsor_freshness_seconds_bucket 0.005"] == 1
    assert shown["windsor_freshness_seconds_bucket 1.0"] == 1
    assert shown["windsor_freshness_seconds_bucket 2.5"] == 3


def test_record_without_a_timestamp_has_no_freshness() -> None:
    metrics = fresh_metrics()
    metrics.batch_written(
        0, Batch([at(0, -1), at(1, 1_000_000)], []), written(2), 0.02, now=1_001.0
    )
    shown = samples(metrics.registry, "windsor_freshness_seconds")
    assert shown["windsor_freshness_seconds_count"] == 1
    assert shown["windsor_freshness_seconds_sum"] == pytest.approx(1)


# The lag ------------------------------------------------------------------------------------


def test_lag_seconds_is_the_age_of_the_newest_written_call_while_there_is_lag() -> None:
    metrics = fresh_metrics()
    partition = TopicPartition("calls", 0)
    metrics.batch_written(
        0, Batch([at(0, 1_000_000), at(1, 1_010_000)], []), written(2), 0.02, now=1_011.0
    )

    metrics.set_lag({partition: 5}, {partition: 2}, now=1_040.0)
    assert samples(metrics.registry, "windsor_lag") == {
        "windsor_lag_records calls 0": 3,
        "windsor_lag_seconds calls 0": 30,
    }

    metrics.set_lag({partition: 5}, {partition: 5}, now=1_050.0)
    assert samples(metrics.registry, "windsor_lag") == {
        "windsor_lag_records calls 0": 0,
        "windsor_lag_seconds calls 0": 0,
    }


def test_partition_that_went_loses_its_lag() -> None:
    metrics = fresh_metrics()
    here, gone = TopicPartition("calls", 0), TopicPartition("calls", 1)
    metrics.set_lag({here: 5, gone: 5}, {here: 2, gone: 2}, now=1.0)
    metrics.set_lag({here: 6}, {here: 2}, now=2.0)
    assert samples(metrics.registry, "windsor_lag_records") == {"windsor_lag_records calls 0": 4}


async def broker_lag(kafka: str, topic: str, partitions: int) -> dict[str, float]:
    """The lag as a bystander computes it."""
    bystander = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id="windsor", enable_auto_commit=False
    )
    await bystander.start()
    try:
        tps = [KafkaPartition(topic, number) for number in range(partitions)]
        ends: Mapping[KafkaPartition, int] = await bystander.end_offsets(tps)
        return {
            f"windsor_lag_records {topic} {tp.partition}": end
            - (await bystander.committed(tp) or 0)
            for tp, end in ends.items()
        }
    finally:
        await bystander.stop()


async def measured_lag(worker: Worker) -> dict[str, float]:
    """The lag as the worker measures it."""
    worker.metrics.set_lag(
        await worker.source.end_offsets(), worker.source.committed_offsets, PRODUCED_MS / 1000 + 9
    )
    return samples(worker.metrics.registry, "windsor_lag_records")


def track(number: int) -> bytes:
    return json.dumps(
        {"type": "track", "userId": f"u{number % 7}", "event": "E", "messageId": f"m{number}"}
    ).encode()


async def test_lag_equals_the_brokers_end_less_the_committed_offsets(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(2)
    async with working(kafka_server, name, database) as worker:
        await produce(kafka_server, name, map(track, range(100)), 2)
        await until_consumed(kafka_server, name, 2)
        none = {f"windsor_lag_records {name} {number}": 0 for number in range(2)}
        assert await broker_lag(kafka_server, name, 2) == none
        assert await measured_lag(worker) == none

        worker.source.pause()
        await produce(kafka_server, name, map(track, range(100, 131)), 2)
        await asyncio.sleep(0.5)
        expected = {
            f"windsor_lag_records {name} 0": 16,
            f"windsor_lag_records {name} 1": 15,
        }
        assert await broker_lag(kafka_server, name, 2) == expected
        assert await measured_lag(worker) == expected
        assert samples(worker.metrics.registry, "windsor_lag_seconds") == {
            f"windsor_lag_seconds {name} {number}": 9 for number in range(2)
        }

        worker.source.resume()
        await until_consumed(kafka_server, name, 2)
        assert await broker_lag(kafka_server, name, 2) == none
        assert await measured_lag(worker) == none


# The counters -------------------------------------------------------------------------------

BEFORE: list[bytes | None] = [
    b'{"type":"page","anonymousId":"visitor","name":"Home","messageId":"3"}',
    b'{"type":"track","userId":"anna","event":"Old","messageId":"7"}',
]
STREAM: list[bytes | None] = [
    b'{"type":"identify","userId":"ann","messageId":"1","traits":{"plan":"free"}}',
    b'{"type":"track","userId":"ann","event":"Signed Up","messageId":"2"}',
    b'{"type":"track","userId":"ann","event":"Signed Up","messageId":"2"}',
    # The visitor is ann: a claim, since a visitor is no user yet.
    b'{"type":"identify","userId":"ann","anonymousId":"visitor","messageId":"4"}',
    b'{"type":"group","userId":"ann","groupId":"acme","messageId":"5"}',
    b'{"type":"screen","userId":"ann","name":"Start","messageId":"6"}',
    # And so is anna, who was one: a merge.
    b'{"type":"alias","userId":"ann","previousId":"anna","messageId":"8"}',
    None,
    b"not JSON",
    b'{"type":"track","event":"Nobody","messageId":"9"}',
    b'{"type":"track","userId":"ann","event":"E","messageId":"10","timestamp":"9999-01-01T00:00:00Z"}',
    b'{"type":"track","userId":"ann","event":"E","messageId":"11","integrations":{"Windsor":false}}',
]


def test_counters_with_labels_are_there_before_their_first_event() -> None:
    shown = samples(fresh_metrics().registry, "windsor_")

    assert {
        key: value for key, value in shown.items() if "letters_total" in key or "retries" in key
    } == {
        **{f"windsor_dead_letters_total {reason}": 0 for reason in get_args(RejectReason)},
        "windsor_retries_total postgres transient": 0,
        "windsor_retries_total postgres connect": 0,
        "windsor_retries_total postgres upkeep": 0,
    }
    assert sum("calls_total" in key for key in shown) == len(get_args(CallType))
    assert sum("calls_stored_total" in key for key in shown) == 2
    assert sum("skipped_total" in key for key in shown) == len(get_args(SkipReason))


async def test_every_counter_after_a_known_stream(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    async with working(kafka_server, name, database) as worker:
        await produce(kafka_server, name, BEFORE)
        await until_consumed(kafka_server, name)
        await produce(kafka_server, name, STREAM)
        await until_consumed(kafka_server, name)
        # Told again, as after a crash, to the same worker.
        await produce(kafka_server, name, STREAM[:2])
        await until_consumed(kafka_server, name)
        shown = samples(worker.metrics.registry, "windsor_")

    counters = {
        key: value
        for key, value in shown.items()
        if "_total" in key
        and not key.startswith("windsor_transactions_restarted")
        # Those with labels are there from 0.
        and (value or " " not in key)
    }
    assert counters == {
        "windsor_calls_total identify": 3,
        "windsor_calls_total track": 5,
        "windsor_calls_total page": 1,
        "windsor_calls_total group": 1,
        "windsor_calls_total screen": 1,
        "windsor_calls_total alias": 1,
        "windsor_calls_stored_total new": 9,
        "windsor_calls_stored_total duplicate": 3,
        "windsor_skipped_total tombstone": 1,
        "windsor_skipped_total integrations": 1,
        "windsor_dead_letters_total malformed_json": 1,
        "windsor_dead_letters_total missing_id": 1,
        "windsor_timestamps_replaced_total": 1,
        "windsor_merges_total": 1,
        "windsor_rebalances_total": 1,
        "windsor_commit_failures_total": 0,
        "windsor_weeks_pruned_total": 0,
        "windsor_calls_pruned_total": 0,
    }
    # The repeated ones were met by the COPY, once at least.
    assert shown["windsor_transactions_restarted_total"] >= 1
    assert shown["windsor_batch_calls_sum"] == 12
    assert shown["windsor_batch_duration_seconds_count"] == shown["windsor_batch_calls_count"]
    assert shown["windsor_freshness_seconds_count"] == 12
    assert shown["windsor_partitions_assigned"] == 1
    assert shown["windsor_partitions_paused"] == 0
    assert {shown[f"windsor_lane_calls {lane}"] for lane in (0, 1)} <= {0}


async def test_freshness_counts_every_call_once_and_sums_their_ages(
    kafka_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = await topic(2)
    ages: list[float] = []
    report = Metrics.batch_written

    def overheard(
        self: Metrics, lane: int, batch: Batch, written_: Written, seconds: float, now: float
    ) -> None:
        ages.extend(max(0.0, now - call.record.timestamp / 1000) for call in batch.calls)
        report(self, lane, batch, written_, seconds, now)

    monkeypatch.setattr(Metrics, "batch_written", overheard)
    async with working(kafka_server, name, database) as worker:
        await produce(kafka_server, name, map(track, range(500)), 2)
        await until_consumed(kafka_server, name, 2)
        shown = samples(worker.metrics.registry, "windsor_freshness")

    assert len(ages) == 500
    assert shown["windsor_freshness_seconds_count"] == 500
    assert shown["windsor_freshness_seconds_bucket +Inf"] == 500
    assert shown["windsor_freshness_seconds_sum"] == pytest.approx(sum(ages), rel=1e-6)


def test_retries_are_counted_by_side_and_reason() -> None:
    metrics = fresh_metrics()
    metrics.write_retried("transient")
    metrics.write_retried("transient")
    metrics.fetch_retried("CorruptRecordException")
    assert samples(metrics.registry, "windsor_retries") == {
        "windsor_retries_total postgres transient": 2,
        "windsor_retries_total postgres connect": 0,
        "windsor_retries_total postgres upkeep": 0,
        "windsor_retries_total kafka CorruptRecordException": 1,
    }


def test_failed_commits_rebalances_and_resets_are_counted() -> None:
    metrics = fresh_metrics()
    metrics.commit_failed()
    metrics.rebalanced()
    metrics.rebalanced()
    metrics.offset_reset("retention")
    metrics.topic_overtaken("calls")
    assert metrics.registry.get_sample_value("windsor_commit_failures_total") == 1
    assert metrics.registry.get_sample_value("windsor_rebalances_total") == 2
    assert samples(metrics.registry, "windsor_offset_resets") == {
        "windsor_offset_resets_total retention": 1,
        "windsor_offset_resets_total made_again": 0,
    }
    assert samples(metrics.registry, "windsor_topic_overtaken") == {
        "windsor_topic_overtaken calls": 1
    }


def test_paused_partitions_and_pool_are_shown_as_they_are() -> None:
    metrics = fresh_metrics()
    metrics.partitions_changed(3, paused=True)
    metrics.set_pool(size=3, idle=1)
    metrics.lane_filled(1, 412)
    shown = samples(metrics.registry, "windsor_")
    assert shown["windsor_partitions_assigned"] == 3
    assert shown["windsor_partitions_paused"] == 3
    assert shown["windsor_database_connections idle"] == 1
    assert shown["windsor_database_connections busy"] == 2
    assert shown["windsor_lane_calls 1"] == 412
    metrics.partitions_changed(3, paused=False)
    assert samples(metrics.registry, "windsor_partitions_paused") == {
        "windsor_partitions_paused": 0
    }


def test_dead_letter_alone_is_a_batch_without_calls() -> None:
    metrics = fresh_metrics()
    letter = Rejected(HandRecord(0), 0, "malformed_json", "not JSON")
    metrics.batch_written(0, Batch([], [letter]), written(0, dead_letters=1), 0.02, now=1.0)
    shown = samples(metrics.registry, "windsor_")
    assert shown["windsor_dead_letters_total malformed_json"] == 1
    assert shown["windsor_batch_calls_count"] == 1
    assert shown["windsor_freshness_seconds_count"] == 0


def test_share_of_dead_records_goes_with_its_topic_and_a_refused_topic_stays() -> None:
    metrics = fresh_metrics()
    metrics.dead_share_changed("calls", 0.4)
    metrics.dead_share_changed("other", 0.501)
    metrics.topic_refused("other")
    metrics.topics_left(["other"])
    assert samples(metrics.registry, "windsor_dead_letters_share") == {
        "windsor_dead_letters_share calls": 0.4
    }
    assert samples(metrics.registry, "windsor_topic") == {"windsor_topic_refused other": 1}
