"""What the decoder lets through real Postgres takes, and it reads back as the same.

Hypothesis changes the project's own calls and real payloads; each example is written by the
real write path, dead letters and all, and every view equals the model.
"""

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.core.call import Call, Rejected
from consumer.core.decode import Decoder
from consumer.ports import Batch
from consumer.postgres import PostgresOptions, open_sink
from consumer.verify import verify_database
from tests.core.calls import HandRecord
from tests.core.mutations import GOOD_CALLS, mutated_values
from tests.core.outcomes import assert_outcomes
from tests.model import model_of
from tests.payloads import real_records
from tests.test_rule_one import EMPTY
from tests.views import stored_views

exactly = partial(json.loads, parse_int=Decimal, parse_float=Decimal)

LETTERS = """
SELECT "offset", position, reason, detail, value FROM windsor.dead_letters
ORDER BY "offset", position
"""


async def check(dsn: str, values: Sequence[bytes]) -> None:
    outcomes = [
        outcome
        for offset, value in enumerate(values)
        for outcome in Decoder().decode(HandRecord(offset, value=value))
    ]
    calls = [outcome for outcome in outcomes if isinstance(outcome, Call)]
    rejected = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]

    connection = await asyncpg.connect(dsn)
    await connection.execute(EMPTY + ", windsor_private.dead_letters")
    async with open_sink(PostgresOptions(dsn, connections_max=1)) as sink:
        await sink.write(Batch(calls, rejected))
    letters = await connection.fetch(LETTERS)
    await connection.close()

    assert (await verify_database(dsn)).differences == 0
    assert await stored_views(dsn, exactly) == model_of(calls, exactly)
    assert [tuple(letter) for letter in letters] == [
        (o.record.offset, o.position, o.reason, o.detail, o.record.value) for o in rejected
    ]


def hold(database: str, originals: Sequence[dict[str, Any]]) -> None:
    @settings(max_examples=40)
    @given(st.lists(mutated_values(originals), min_size=1, max_size=30))
    def run(values: list[bytes]) -> None:
        for value in values:
            assert_outcomes(value)
        asyncio.run(check(database, values))

    run()


def test_whatever_becomes_of_our_calls_is_stored_as_decoded(database: str) -> None:
    hold(database, GOOD_CALLS)


def test_whatever_becomes_of_real_payloads_is_stored_as_decoded(database: str) -> None:
    hold(database, list(real_records().values()))
