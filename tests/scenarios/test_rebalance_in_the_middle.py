"""Two workers of one group, one that leaves and one that joins while a world is consumed."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable

from consumer.core.call import Call
from consumer.core.decode import Decoder
from consumer.verify import verify_database
from tests.core.calls import HandRecord
from tests.model import model_of
from tests.views import stored_views
from tests.worker import PRODUCED_MS, produce, until_consumed, working

PARTITIONS = 4


def story(seed: int, count: int) -> list[bytes]:
    """Calls of few people in random order: merges, claims and traits in every one's way."""
    rng = random.Random(seed)
    users = [f"u{n}" for n in range(40)]
    values = []
    for n in range(count):
        user = rng.choice(users)
        call = {
            "type": rng.choice(["track", "track", "page", "identify", "group", "alias"]),
            "userId": user,
            "anonymousId": f"v{rng.randrange(60)}",
            "messageId": f"m{n}",
            "timestamp": PRODUCED_MS - rng.randrange(10**9),
            "event": "Feature Used",
            "groupId": f"g{rng.randrange(5)}",
            "previousId": rng.choice(users) if rng.random() < 0.3 else user,
            "traits": {"plan": rng.randrange(9), "email": f"{rng.choice(users)}@example.com"},
        }
        values.append(json.dumps(call).encode())
    return values


async def test_views_equal_the_model_and_lag_the_brokers(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(PARTITIONS)
    values = story(seed=7, count=4_000)
    async with working(kafka_server, name, database) as first:
        await produce(kafka_server, name, values[:2_000], PARTITIONS)
        async with working(kafka_server, name, database) as second:
            producing = asyncio.create_task(produce(kafka_server, name, values[2_000:], PARTITIONS))
            async with asyncio.timeout(30):
                while second.metric("windsor_partitions_assigned") != PARTITIONS // 2:  # noqa: ASYNC110 - the group decides
                    await asyncio.sleep(0.05)
            await producing
            # The second leaves in the middle: drained, committed, handed back.
        await until_consumed(kafka_server, name, PARTITIONS)
        async with asyncio.timeout(30):
            while first.metric("windsor_partitions_assigned") != PARTITIONS:  # noqa: ASYNC110 - the group decides
                await asyncio.sleep(0.05)
        ends = await first.source.end_offsets()
        assert sum(ends.values()) == len(values)
        first.metrics.set_lag(ends, ends, PRODUCED_MS / 1000)
        assert first.metric("windsor_lag_records", topic=name, partition="0") == 0
        assert first.metric("windsor_rebalances_total") >= 2

    records = [HandRecord(timestamp=PRODUCED_MS, value=value) for value in values]
    decoder = Decoder()
    calls = [o for record in records for o in decoder.decode(record) if isinstance(o, Call)]
    assert len(calls) == len(values)
    assert await stored_views(database) == model_of(calls)
    assert (await verify_database(database)).differences == 0
