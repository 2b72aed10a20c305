"""A standby takes over that had not yet received what was committed last.

The worker goes on with what it remembers of a database that is no more: everything must be asked
anew, or calls would point at customers that nobody has.
"""

import asyncpg

from consumer.ports import Batch
from consumer.postgres import PostgresOptions, open_sink
from consumer.verify import verify_database
from tests.model import model_of
from tests.test_rule_one import EMPTY, decoded
from tests.views import stored_views

# Another server: it began at another time, and has neither the customers nor the week.
_LOSE = f"""
{EMPTY};
DROP TABLE windsor_private.calls_2026_10_05;
CREATE OR REPLACE FUNCTION windsor_private.history_now() RETURNS text
LANGUAGE sql STABLE RETURN 'another server''s';
"""


async def test_what_was_remembered_of_the_lost_server_is_forgotten(database: str) -> None:
    calls = decoded([
        {"type": "identify", "userId": "u1", "anonymousId": "v1", "messageId": f"m{number}",
         "timestamp": f"2026-10-05T00:00:0{number}Z", "traits": {"plan": "pro"}}
        for number in range(3)
    ])  # fmt: skip
    async with open_sink(PostgresOptions(database)) as sink:
        await sink.write(Batch(calls[:2], []))
        connection = await asyncpg.connect(database)
        await connection.execute(_LOSE)
        await connection.close()

        written = await sink.write(Batch(calls[2:], []))

    assert (written.calls_new, written.attempts) == (1, 2)
    assert await stored_views(database) == model_of(calls[2:])
    assert (await verify_database(database)).differences == 0


async def test_week_that_the_new_server_has_not_is_made_again(database: str) -> None:
    first, second = decoded([
        {"type": "track", "event": "A", "userId": "u1", "messageId": "a",
         "timestamp": "2026-10-05T00:00:00Z"},
        {"type": "track", "event": "B", "userId": "u1", "messageId": "b",
         "timestamp": "2026-10-05T00:00:01Z"},
    ])  # fmt: skip
    async with open_sink(PostgresOptions(database)) as sink:
        await sink.write(Batch([first], []))
        connection = await asyncpg.connect(database)
        await connection.execute("DROP TABLE windsor_private.calls_2026_10_05")
        await connection.close()

        written = await sink.write(Batch([second], []))

    assert written.calls_new == 1
