"""Real payloads, written by nobody here, through real Kafka into real Postgres."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from consumer.core.call import Call
from consumer.core.decode import Decoder
from consumer.verify import verify_database
from tests.core.calls import HandRecord
from tests.model import model_of
from tests.views import stored_views
from tests.worker import PRODUCED_MS, produce, until_consumed, working

FOLDER = Path(__file__).parents[2] / "shared" / "fixtures"

Topics = Callable[[int], Awaitable[str]]

# What is no call, and why; every other file is stored.
REFUSED = {
    "engage-journey-v1-string-true.json": "missing_id",
    "engage-journey-v2-track.json": "unknown_type",
}


@pytest.fixture(scope="module")
def payloads() -> dict[str, bytes]:
    if not FOLDER.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the real payloads are missing: {FOLDER}")
        pytest.skip("the real payloads are not beside this checkout")
    found = {path.name: path.read_bytes() for path in sorted(FOLDER.glob("*.json"))}
    assert len(found) > 30
    return found


async def test_every_payload_is_stored_or_refused_with_its_reason(
    payloads: dict[str, bytes], kafka_server: str, database: str, topic: Topics
) -> None:
    name = await topic(1)
    await produce(kafka_server, name, payloads.values())
    # Some of the files are different calls of one messageId, of which the first stored stays: in
    # one lane that is the first sent.
    async with working(kafka_server, name, database, lanes=1) as worker:
        await until_consumed(kafka_server, name)
        dead = worker.metric("windsor_dead_letters_total", reason="missing_id")

    decoder = Decoder()
    calls = []
    for offset, value in enumerate(payloads.values()):
        record = HandRecord(offset, topic=name, timestamp=PRODUCED_MS, value=value)
        calls += [o for o in decoder.decode(record) if isinstance(o, Call)]
    assert await stored_views(database) == model_of(calls)
    connection = await asyncpg.connect(database)
    letters = await connection.fetch(
        'SELECT "offset", reason, value, headers FROM windsor.dead_letters ORDER BY "offset"'
    )
    await connection.close()
    names = list(payloads)
    assert {names[row["offset"]]: row["reason"] for row in letters} == REFUSED
    assert {row["value"] for row in letters} == {payloads[file] for file in REFUSED}
    assert {row["headers"] for row in letters} == {'[["source", "dGVzdA=="]]'}
    assert dead == 1
    assert (await verify_database(database)).differences == 0
