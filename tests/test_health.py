"""Probes and metrics over real HTTP, of a whole worker and of its parts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter

from consumer import app
from consumer.errors import ConfigError, SourceError, TransientSinkError
from consumer.health import Probe, health_app, serving
from consumer.kafka import KafkaOptions, KafkaSource
from consumer.metrics import Metrics
from consumer.ports import Chunk, TopicPartition
from consumer.postgres import PostgresOptions, PostgresSink, open_sink
from tests.probes import consuming, settings_for, until_answered
from tests.worker import produce


async def all_is_well() -> str | None:
    return None


async def broken() -> str | None:
    return "the disk is on fire"


@asynccontextmanager
async def probed(healthy: Probe, ready: Probe) -> AsyncIterator[httpx.AsyncClient]:
    """A server with these probes, and a client of it."""
    registry = CollectorRegistry()
    Counter("turns", "Turns taken.", registry=registry).inc(3)
    async with (
        serving(health_app(registry, healthy, ready), "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


async def in_server(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_probes_say_ok_while_all_is_well() -> None:
    async with probed(all_is_well, all_is_well) as client:
        for path in ("/healthz", "/readyz"):
            response = await client.get(path)
            assert (response.status_code, response.text) == (200, "ok")


async def test_failing_probe_says_its_own_reason_alone() -> None:
    async with probed(all_is_well, broken) as client:
        ready, healthy = await client.get("/readyz"), await client.get("/healthz")
        assert (ready.status_code, ready.text) == (503, "the disk is on fire")
        assert (healthy.status_code, healthy.text) == (200, "ok")
    async with probed(broken, all_is_well) as client:
        ready, healthy = await client.get("/readyz"), await client.get("/healthz")
        assert (ready.status_code, ready.text) == (200, "ok")
        assert (healthy.status_code, healthy.text) == (503, "the disk is on fire")


async def test_metrics_are_shown_in_prometheus_text() -> None:
    async with probed(all_is_well, all_is_well) as client:
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    shown = [line for line in response.text.splitlines() if "_created" not in line]
    assert shown == [
        "# HELP turns_total Turns taken.",
        "# TYPE turns_total counter",
        "turns_total 3.0",
    ]


async def test_taken_port_is_an_error_of_the_configuration() -> None:
    app_ = health_app(CollectorRegistry(), all_is_well, all_is_well)
    async with serving(app_, "127.0.0.1", 0) as port:
        with pytest.raises(ConfigError) as refused:
            async with serving(app_, "127.0.0.1", port):
                pass
    assert str(refused.value) == f"WINDSOR_HTTP_PORT: {port} is taken, choose another"


async def test_port_is_free_again_once_the_server_is_left() -> None:
    app_ = health_app(CollectorRegistry(), all_is_well, all_is_well)
    async with serving(app_, "127.0.0.1", 0) as port:
        pass
    async with serving(app_, "127.0.0.1", port) as again:
        assert again == port


async def test_worker_is_ready_until_the_database_is_away_and_ready_when_it_is_back(
    kafka_server: str,
    postgres_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
) -> None:
    name = await topic(1)
    stored_in = database.partition("?")[0].rpartition("/")[2]
    async with consuming(settings_for(kafka_server, name, database)) as client:
        await until_answered(client, "/readyz", (200, "ok"))

        await in_server(postgres_server, f"ALTER DATABASE {stored_in} ALLOW_CONNECTIONS false")
        await in_server(
            postgres_server,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{stored_in}'",
        )
        # An idle worker finds out by asking.
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert response.text.startswith("Postgres cannot be used now: ")
        # A busy one by its writes.
        await produce(kafka_server, name, [b'{"type":"track","userId":"u","event":"E"}'])
        await until_answered(client, "/readyz", (503, "the database cannot be written to"))
        response = await client.get("/healthz")
        assert (response.status_code, response.text) == (200, "ok")

        await in_server(postgres_server, f"ALTER DATABASE {stored_in} ALLOW_CONNECTIONS true")
        await until_answered(client, "/readyz", (200, "ok"))
        shown = (await client.get("/metrics")).text.splitlines()
        assert 'windsor_calls_stored_total{outcome="new"} 1.0' in shown


async def test_worker_without_a_database_waits_alive_but_not_ready(kafka_server: str) -> None:
    # Nobody listens on port 1.
    nowhere = "postgresql://windsor@127.0.0.1:1/windsor"
    async with consuming(settings_for(kafka_server, "calls", nowhere)) as client:
        await until_answered(client, "/readyz", (503, "waiting for the database: "))
        response = await client.get("/healthz")
        assert (response.status_code, response.text) == (200, "ok")


async def test_database_that_goes_once_it_was_looked_at_is_waited_for_too(
    kafka_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = iter([TransientSinkError("gone meanwhile")] * 3)

    @asynccontextmanager
    async def gone_at_first(options: PostgresOptions) -> AsyncIterator[PostgresSink]:
        for failure in failures:
            raise failure
        async with open_sink(options) as sink:
            yield sink

    monkeypatch.setattr(app, "open_sink", gone_at_first)
    async with consuming(settings_for(kafka_server, await topic(1), database)) as client:
        await until_answered(client, "/readyz", (200, "ok"))
    assert next(failures, None) is None


async def test_mistake_beside_the_pipeline_ends_the_worker_and_is_seen(
    kafka_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "_LAG_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(Metrics, "set_tasks", mistaken)
    settings = settings_for(kafka_server, await topic(1), database)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(app.consume(settings), 30)


async def test_reason_why_kafka_is_gone_passes_with_it_whatever_it_was(
    kafka_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A certificate that is being renewed at that moment.
    reasons = iter([SourceError("away"), ConfigError("the file is not there")])
    gone = asyncio.Event()
    gone.set()

    async def looked_into(_: KafkaOptions) -> None:
        for reason in reasons:
            raise reason
        gone.clear()

    async def no_ends(_: KafkaSource) -> dict[TopicPartition, int]:
        return {}

    async def answers(_: KafkaSource) -> bool:
        return not gone.is_set()

    monkeypatch.setattr(app, "_LAG_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(app, "check_connection", looked_into)
    monkeypatch.setattr(KafkaSource, "end_offsets", no_ends)
    monkeypatch.setattr(KafkaSource, "answers", answers)
    async with consuming(settings_for(kafka_server, await topic(1), database)) as client:
        await until_answered(client, "/readyz", (503, "the file is not there"))
        await until_answered(client, "/readyz", (200, "ok"))


async def test_worker_without_a_broker_waits_alive_but_not_ready(database: str) -> None:
    async with consuming(settings_for("127.0.0.1:1", "calls", database)) as client:
        await until_answered(client, "/readyz", (503, "waiting for Kafka: "))
        response = await client.get("/healthz")
        assert (response.status_code, response.text) == (200, "ok")


async def test_worker_whose_loop_stands_still_is_not_alive(
    kafka_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moving = asyncio.Event()
    moving.set()
    poll = KafkaSource.poll

    async def gated(source: KafkaSource, records_max: int) -> Sequence[Chunk]:
        await moving.wait()
        return await poll(source, records_max)

    monkeypatch.setattr(KafkaSource, "poll", gated)
    settings = msgspec.structs.replace(
        settings_for(kafka_server, await topic(1), database), unhealthy_after_seconds=2.0
    )
    async with consuming(settings) as client:
        try:
            await until_answered(client, "/readyz", (200, "ok"))
            await until_answered(client, "/healthz", (200, "ok"))
            moving.clear()
            await until_answered(client, "/healthz", (503, "no progress for 2 s"))
        finally:
            moving.set()
        await until_answered(client, "/healthz", (200, "ok"))
