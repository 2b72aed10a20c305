"""Retention drops what a worker has not read: it stops and says so, or goes on, by a setting."""

from collections.abc import Awaitable, Callable

from tests.chaos.scenario import Scenario
from tests.chaos.stories.kafka import retention_overtakes
from tests.processes import committed_offsets, consuming
from tests.scenarios.conftest import Played
from tests.scenarios.test_sigterm_drains_under_load import track
from tests.test_kafka import delete_before
from tests.worker import produce, until_consumed

MakeTopic = Callable[[int], Awaitable[str]]


async def overtaken(kafka: str, dsn: str, name: str) -> None:
    """A worker has read ten records of the topic; of thirty more, ten are gone."""
    await produce(kafka, name, map(track, range(10)))
    async with consuming(kafka, name, dsn) as worker:
        await until_consumed(kafka, name)
        assert await worker.stop() == 0
    await produce(kafka, name, map(track, range(10, 40)))
    await delete_before(kafka, name, 20)


async def test_it_stops_with_one_line_and_a_metric_and_skips_nothing(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    await overtaken(kafka_server, database, name)

    async with consuming(kafka_server, name, database) as worker:
        refused = await worker.until_logged("worker.overtaken")
        metrics = await worker.metrics()
        ready, healthy = await worker.fetch("/readyz"), await worker.fetch("/healthz")
        # It shows why until it is told to go, or for a minute.
        assert await worker.stop() == 1

    line = (
        f"the topic's retention has overtaken the worker: records are lost, {name}/0 from 10 to 19:"
        " set WINDSOR_KAFKA_OFFSET_OUT_OF_RANGE=earliest to go on with the rest"
    )
    assert worker.said == [f"windsor: {line}"]
    assert refused["level"] == "error"
    assert metrics[f'windsor_topic_overtaken{{topic="{name}"}}'] == 1
    assert (ready, healthy) == ((503, line), (200, "ok"))
    assert await committed_offsets(kafka_server, name, 1) == {0: 10}


async def test_it_goes_on_from_the_earliest_where_allowed(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    await overtaken(kafka_server, database, name)

    async with consuming(
        kafka_server, name, database, kafka_offset_out_of_range="earliest"
    ) as worker:
        await until_consumed(kafka_server, name)
        metrics = await worker.metrics()
        reset = await worker.until_logged("offset.reset")
        assert await worker.stop() == 0

    assert (reset["reason"], reset["from_offset"], reset["to_offset"]) == ("retention", 10, 20)
    assert metrics['windsor_offset_resets_total{reason="retention"}'] == 1
    assert metrics['windsor_calls_stored_total{outcome="new"}'] == 20


async def test_a_group_under_load_loses_nothing_but_what_was_dropped(played: Played) -> None:
    outcome = await played(Scenario("retention", retention_overtakes, 1))

    assert outcome.faultless, outcome
    assert max(outcome.recovery_seconds) < 30
