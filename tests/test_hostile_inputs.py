"""Hostile inputs through real Kafka into real Postgres: each has its outcome, and harms nobody.

One worker takes the whole table, every row between two healthy calls; then each row is looked
for in what is stored.
"""

import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import asyncpg
import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.core.call import Call, Outcome, Rejected
from consumer.core.decode import Decoder
from consumer.verify import verify_database
from tests.core.calls import HandRecord
from tests.core.hostile import HOSTILE, NEIGHBOURHOODS
from tests.model import Views, model_of
from tests.views import stored_views
from tests.worker import PRODUCED_MS, produce, until_consumed, working

TOPIC = "hostile"
# So that records over all bounds reach the worker.
TOPIC_OPTIONS = {"max.message.bytes": str(12 * 1024 * 1024)}

# Postgres keeps every digit, so they are compared to the last.
exactly = partial(json.loads, parse_int=Decimal, parse_float=Decimal)

ROWS: dict[str, list[bytes | None]] = {
    **{hostile.name: [hostile.value] for hostile in HOSTILE},
    **{f"near: {name}": [value for value, _ in near] for name, near in NEIGHBOURHOODS.items()},
}


class Stored(NamedTuple):
    """What became of all rows."""

    outcomes: dict[str, list[Outcome]]
    """As decoded here, one by one."""
    views: Views
    letters: dict[int, list[dict[str, Any]]]
    """By offset."""


def healthy(number: int, place: str) -> bytes:
    id_ = f"{place}-{number}"
    call = {"type": "track", "event": "Lived", "messageId": id_, "userId": id_}
    return json.dumps({**call, "properties": {"row": number}}).encode()


def of_somebody(number: int, value: bytes | None) -> bytes | None:
    """The row about a person of its own, whose name takes no more bytes than Jane's."""
    return value and value.replace(b"jane", b"%04d" % (1000 + number))


def records() -> list[tuple[str, HandRecord]]:
    """Every row between two healthy calls, as Kafka will deliver them."""
    values: list[tuple[str, bytes | None]] = []
    for number, (name, row) in enumerate(ROWS.items()):
        values.append(("", healthy(number, "before")))
        values += [(name, of_somebody(number, value)) for value in row]
        values.append(("", healthy(number, "after")))
    return [
        (name, HandRecord(offset, TOPIC, 0, PRODUCED_MS, b"k", value))
        for offset, (name, value) in enumerate(values)
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stored(kafka_server: str, database_of_module: str) -> AsyncIterator[Stored]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 1, 1, topic_configs=TOPIC_OPTIONS)])
    sent = records()
    await produce(kafka_server, TOPIC, (record.value for _, record in sent))
    async with working(kafka_server, TOPIC, database_of_module):
        await until_consumed(kafka_server, TOPIC)
    await admin.delete_topics([TOPIC])
    await admin.close()

    outcomes: dict[str, list[Outcome]] = {}
    for name, record in sent:
        outcomes.setdefault(name, []).extend(Decoder().decode(record))
    connection = await asyncpg.connect(database_of_module)
    letters: dict[int, list[dict[str, Any]]] = {}
    for row in await connection.fetch("SELECT * FROM windsor.dead_letters ORDER BY position"):
        letters.setdefault(row["offset"], []).append(dict(row))
    await connection.close()
    yield Stored(outcomes, await stored_views(database_of_module, exactly), letters)
    assert (await verify_database(database_of_module)).differences == 0


@pytest.fixture(scope="module")
def expected(stored: Stored) -> Views:
    outcomes = [outcome for row in stored.outcomes.values() for outcome in row]
    return model_of([o for o in outcomes if isinstance(o, Call)], exactly)


def about(views: Views, calls: Sequence[Call]) -> dict[str, list[dict[str, Any]]]:
    """What the views hold of a row's calls."""
    message_ids = {call.clock.message_id for call in calls}
    users = {call.user_id for call in calls}
    group_ids = {call.group_id for call in calls}
    return {
        "users": [row for row in views["users"] if row["user_id"] in users],
        "groups": [row for row in views["groups"] if row["group_id"] in group_ids],
        **{
            view: [row for row in views[view] if row["message_id"] in message_ids]
            for view in ("user_ids", "feed", "merges")
        },
    }


@pytest.mark.parametrize("name", ROWS)
def test_row_is_stored_or_set_aside_and_harms_nobody(
    stored: Stored, expected: Views, name: str
) -> None:
    outcomes = stored.outcomes[name]
    calls = [outcome for outcome in outcomes if isinstance(outcome, Call)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]

    assert about(stored.views, calls) == about(expected, calls)
    letters = [letter for o in {o.record.offset for o in refused} for letter in stored.letters[o]]
    assert [
        (
            letter["topic"], letter["offset"], letter["position"], letter["reason"],
            letter["detail"], letter["key"], letter["value"],
        )
        for letter in sorted(letters, key=lambda letter: (letter["offset"], letter["position"]))
    ] == [
        (TOPIC, o.record.offset, o.position, o.reason, o.detail, b"k", o.record.value)
        for o in refused
    ]  # fmt: skip


def test_everybody_else_lives(stored: Stored, expected: Views) -> None:
    lived = [row for row in stored.views["feed"] if row["name"] == "Lived"]

    assert len(lived) == 2 * len(ROWS)
    assert {row["properties"]["row"] for row in lived} == set(range(len(ROWS)))
    assert stored.views == expected
    assert not any(
        letter["reason"] == "rejected_by_database"
        for letters in stored.letters.values()
        for letter in letters
    )
