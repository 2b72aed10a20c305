"""`windsor status` tells both sides, and of one that is away in one line."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from consumer import cli
from consumer.core.call import CallType
from consumer.kafka import KafkaOptions, Lag, lag_of_group
from consumer.ports import Batch, TopicPartition
from consumer.postgres import PostgresOptions, open_sink
from consumer.schema import migrations
from consumer.status import Status, status
from demo.servers import free_port
from tests.core.calls import HandRecord, call
from tests.worker import produce, until_consumed, working


def values(count: int) -> list[bytes]:
    return [
        b'{"type":"track","userId":"u1","event":"E","messageId":"%d"}' % n for n in range(count)
    ]


async def command(monkeypatch: pytest.MonkeyPatch, *arguments: str, **settings: str) -> int:
    for name, value in settings.items():
        monkeypatch.setenv(f"WINDSOR_{name.upper()}", value)
    return await asyncio.to_thread(cli.main, ["status", *arguments])


async def test_lag_is_told_by_partition_and_in_all(
    kafka_server: str,
    database: str,
    topic: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = await topic(2)
    async with working(kafka_server, name, database):
        await produce(kafka_server, name, [*values(10), b"{"], 2)
        await until_consumed(kafka_server, name, 2)
    await produce(kafka_server, name, values(7), 2)
    servers = {
        "kafka_bootstrap_servers": kafka_server, "kafka_topics": name, "database_url": database,
    }  # fmt: skip

    capsys.readouterr()
    assert await command(monkeypatch, "--json", **servers) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lag"] == {
        "records": 7,
        "partitions": [
            {"topic": name, "partition": 0, "committed": 6, "end": 10, "records": 4},
            {"topic": name, "partition": 1, "committed": 5, "end": 8, "records": 3},
        ],
    }
    assert found["problems"] == []
    assert {key: found["database"][key] for key in ("schema_version", "users", "dead_letters")} == {
        "schema_version": migrations()[-1].version, "users": 1, "dead_letters": 1,
    }  # fmt: skip

    assert await command(monkeypatch, **servers) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {key.strip(): value.strip() for key, value in lines.items()}
    assert (told["lag"], told[f"lag {name} 0"], told["dead letters"]) == ("7 records", "4", "1")


async def test_partition_without_a_commit_lags_from_its_beginning(
    kafka_server: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    await produce(kafka_server, name, values(3))

    pattern = KafkaOptions(bootstrap_servers=kafka_server, topics=f"^{name}$", group_id="unheard")
    (lag,) = await lag_of_group(pattern)

    assert lag.records == 3
    assert lag == Lag(TopicPartition(name, 0), committed=None, begin=0, end=3)


@pytest.mark.parametrize("type_", ["track", "identify"])
async def test_age_is_that_of_the_newest_event_or_where_there_is_none_call(
    type_: CallType, database: str
) -> None:
    now_us = int(time.time() * 1e6)
    old = call("identify", 0, user_id="u1", record=HandRecord(0), traits=b"{}")
    newest = call(type_, 1, user_id="u1", record=HandRecord(1))
    newest.received_at = now_us
    async with open_sink(PostgresOptions(database)) as sink:
        await sink.write(Batch([old, newest], []))

    found = (await status(database, None)).database

    assert found is not None
    rows = dict(line.split("  ", 1) for line in Status(found, None, []).text().splitlines())
    assert rows["age of newest event"].strip().endswith(" s")
    assert found.newest_event_received_at == datetime.fromtimestamp(now_us / 1e6, UTC)
    assert found.newest_event_age_seconds is not None
    assert 0 <= found.newest_event_age_seconds < 60


async def test_kafka_that_is_away_is_one_line_beside_the_rest(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = f"127.0.0.1:{free_port()}"
    servers = {"kafka_bootstrap_servers": away, "database_url": database}

    assert await command(monkeypatch, **servers) == 1

    printed = capsys.readouterr()
    assert printed.out.startswith("schema version")
    (line,) = printed.err.splitlines()
    assert line.startswith(f"windsor: Kafka at {away} cannot be reached: ")


async def test_topic_that_is_not_there_is_told(
    kafka_server: str, database: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    servers = {"kafka_bootstrap_servers": kafka_server, "database_url": database}
    servers["kafka_topics"] = "no-such"

    assert await command(monkeypatch, "--json", **servers) == 1

    printed = capsys.readouterr()
    line = "Kafka has no topic no-such: check WINDSOR_KAFKA_TOPICS"
    assert json.loads(printed.out)["problems"] == [line]
    assert printed.err == f"windsor: {line}\n"
