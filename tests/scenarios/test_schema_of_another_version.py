"""`windsor consume` on a schema that is too old or too new: one line, exit code 1, no write."""

import asyncpg
import pytest

from consumer.schema import migrations
from tests.processes import consuming

NEWEST = migrations()[-1].version


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (
            NEWEST - 1,
            (
                f"windsor: the database's schema is version {NEWEST - 1}, this worker needs"
                f" {NEWEST}: run `windsor migrate` first"
            ),
        ),
        (
            NEWEST + 1,
            (
                f"windsor: the database's schema is version {NEWEST + 1}, this worker knows"
                f" {NEWEST}: run the newer windsor"
            ),
        ),
    ],
)
async def test_it_refuses_to_run_and_says_what_to_do(
    kafka_server: str, database: str, version: int, said: str
) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "DELETE FROM windsor_private.migrations WHERE version > $1", version
        )
        await connection.execute(
            "INSERT INTO windsor_private.migrations (version, name) VALUES ($1, 'another')"
            " ON CONFLICT DO NOTHING",
            version,
        )
    finally:
        await connection.close()

    async with consuming(kafka_server, "calls", database) as worker:
        assert await worker.ended(30) == 1

    assert worker.said == [said]
