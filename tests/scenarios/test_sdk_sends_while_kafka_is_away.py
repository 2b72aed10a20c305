"""An SDK sends while Kafka stands still: it is told 503, sends again, and its call lands once."""

import asyncio
import sys
from pathlib import Path

import asyncpg

from demo.servers import embedded_kafka
from tests.dashboard.endpoint import endpoint
from tests.processes import frozen
from tests.test_publisher import make_topic
from tests.worker import until_consumed, working

SEND = Path(__file__).parents[1] / "sdk" / "send.py"


async def test_its_calls_land_once(server_folder: Path, database: str) -> None:
    # A broker of its own: the others' tests go on.
    with embedded_kafka(server_folder / "kafka-away") as broker:
        kafka = broker.bootstrap_servers
        await make_topic(kafka, "calls", 1)
        async with endpoint(
            kafka, "calls", database, endpoint_produce_timeout_seconds=1.0
        ) as served:
            unavailable = 'windsor_endpoint_refused_total{reason="unavailable"}'
            with frozen(broker.pid):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, SEND, served.url, served.token, "plain"
                )
                async with asyncio.timeout(30):
                    # Its first try, which Kafka gets all the same, and a second at the least.
                    while await served.metric(unavailable) < 2:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.1)
            async with asyncio.timeout(60):
                assert await process.wait() == 0
            records = await served.records()
        async with working(kafka, "calls", database):
            await until_consumed(kafka, "calls")
    connection = await asyncpg.connect(database)
    try:
        feed = await connection.fetch("SELECT type, name FROM windsor.feed ORDER BY type")
        dead = await connection.fetchval("SELECT count(*) FROM windsor.dead_letters")
    finally:
        await connection.close()

    assert len(records) > 6
    assert [tuple(row) for row in feed] == [
        ("page", "Pricing"), ("screen", "Cart"), ("track", "Order Completed"),
    ]  # fmt: skip
    assert dead == 0
