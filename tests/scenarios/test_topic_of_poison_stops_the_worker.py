"""A topic that is mostly dead letters stops `windsor consume`; a bad share of one does not."""

import asyncio
import itertools
import json
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from demo.servers import free_port
from tests.command import environment
from tests.worker import PRODUCED_MS, produce, until_consumed

MakeTopic = Callable[[int], Awaitable[str]]
POISON = b"<html>502 Bad Gateway</html>"


def tracks() -> Iterator[bytes]:
    for number in itertools.count():
        yield json.dumps({
            "type": "track", "userId": f"u{number % 50}", "event": "Feature Used",
            "messageId": f"m{number}", "timestamp": PRODUCED_MS - number,
        }).encode()  # fmt: skip


@asynccontextmanager
async def consuming(**settings: str) -> AsyncIterator[Process]:
    """`windsor consume`, which ends by itself or is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "consume",
        env=environment(**settings), stdout=DEVNULL, stderr=PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ended(process: Process) -> tuple[int | None, list[str]]:
    """Its exit code, and what it said itself beside its log."""
    _, err = await asyncio.wait_for(process.communicate(), 90)
    return process.returncode, [
        line for line in err.decode().splitlines() if line.startswith("windsor:")
    ]


async def fetched(dsn: str, query: str, *arguments: object) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(query, *arguments))
    finally:
        await connection.close()


async def set_aside(dsn: str, topic: str) -> int:
    query = "SELECT count(*) FROM windsor.dead_letters WHERE topic = $1"
    return await fetched(dsn, query, topic)


async def stored(dsn: str, topic: str) -> int:
    return await fetched(dsn, "SELECT count(*) FROM windsor.feed WHERE topic = $1", topic)


async def committed(kafka: str, topic: str) -> int:
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, group_id="windsor", enable_auto_commit=False)
    await reader.start()
    try:
        return await reader.committed(TopicPartition(topic, 0)) or 0
    finally:
        await reader.stop()


async def test_poison_stops_it_with_one_line_and_what_is_committed_is_what_is_written(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    poisoned, healthy = await topic(1), await topic(1)
    # Far more good records than bad ones, but of another topic.
    await produce(kafka_server, healthy, itertools.islice(tracks(), 3_000))
    await produce(kafka_server, poisoned, [POISON] * 1_200)
    at = {
        "kafka_bootstrap_servers": kafka_server, "kafka_topics": f"{poisoned},{healthy}",
        "database_url": database, "http_port": "0", "poll_records_max": "100",
        "linger_seconds": "0",
    }  # fmt: skip

    async with consuming(**at) as worker:
        exit_code, said = await ended(worker)

    assert exit_code == 1
    assert len(said) == 1
    assert said[0].startswith(
        f"windsor: topic {poisoned}: more than 50% of its last 1,000 records are dead letters,"
        " mostly malformed_json, one of them at partition 0 offset 500:"
    )
    # Nothing in between: what is committed is a dead letter or a call, and the rest is neither.
    assert 400 <= await set_aside(database, poisoned) <= 500
    assert await committed(kafka_server, poisoned) == await set_aside(database, poisoned)
    assert await committed(kafka_server, healthy) == await stored(database, healthy)

    # The operator lets it through: everything arrives, once.
    async with consuming(**at, dead_letters_share_max="1"):
        await until_consumed(kafka_server, poisoned)
        await until_consumed(kafka_server, healthy)
    assert await set_aside(database, poisoned) == 1_200
    assert await stored(database, healthy) == 3_000


async def test_two_bad_records_of_five_are_set_aside_and_the_worker_goes_on(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name, good = await topic(1), tracks()
    await produce(kafka_server, name, [POISON if n % 5 < 2 else next(good) for n in range(3_000)])
    port = free_port()

    async with consuming(
        kafka_bootstrap_servers=kafka_server, kafka_topics=name, database_url=database,
        http_port=str(port),
    ) as worker:  # fmt: skip
        await until_consumed(kafka_server, name)
        assert worker.returncode is None
        _, metrics = await asyncio.to_thread(fetch, port, "/metrics")
        worker.terminate()
        assert await ended(worker) == (0, [])

    assert f'windsor_dead_letters_share{{topic="{name}"}} 0.4\n' in metrics
    assert await set_aside(database, name) == 1_200
    assert await stored(database, name) == 1_800


async def test_stopped_worker_shows_why_until_a_scrape_has_seen_it(
    kafka_server: str, database: str, topic: MakeTopic
) -> None:
    name, port = await topic(1), free_port()
    await produce(kafka_server, name, [POISON] * 600)

    async with consuming(
        kafka_bootstrap_servers=kafka_server, kafka_topics=name, database_url=database,
        http_port=str(port),
    ) as worker:  # fmt: skip
        assert worker.stderr is not None
        async with asyncio.timeout(60):
            while b"topic.refused" not in await worker.stderr.readline():
                assert worker.returncode is None
        _, metrics = await asyncio.to_thread(fetch, port, "/metrics")
        ready, why = await asyncio.to_thread(fetch, port, "/readyz")
        worker.terminate()
        exit_code, said = await ended(worker)

    assert f'windsor_topic_refused{{topic="{name}"}} 1.0\n' in metrics
    assert f'windsor_dead_letters_share{{topic="{name}"}} 0.501\n' in metrics
    # Read in one poll, so that nothing was set aside at all.
    assert await set_aside(database, name) == await committed(kafka_server, name) == 0
    assert (exit_code, ready, said) == (1, 503, [f"windsor: {why}"])


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
