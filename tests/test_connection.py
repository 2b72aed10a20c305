"""Whose fault an error of Postgres is, and what a connection that fails to close takes along."""

import asyncpg
import pytest

from consumer.errors import ConfigError, PermanentSinkError, SchemaError, TransientSinkError
from consumer.postgres import FAILURES, connected, translated


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (asyncpg.ConnectionDoesNotExistError("gone"), TransientSinkError),
        (asyncpg.DeadlockDetectedError("circle"), TransientSinkError),
        (asyncpg.TooManyConnectionsError("full"), TransientSinkError),
        (asyncpg.ReadOnlySQLTransactionError("standby"), TransientSinkError),
        (asyncpg.InterfaceError("the connection is closed"), TransientSinkError),
        # A farewell of the server that comes between two statements.
        (asyncpg.InternalClientError("another operation is in progress"), TransientSinkError),
        (ConnectionResetError("reset"), TransientSinkError),
        (TimeoutError(), TransientSinkError),
        (asyncpg.ProtocolViolationError("unsupported startup parameter: jit"), ConfigError),
        (asyncpg.NumericValueOutOfRangeError("1e999999"), PermanentSinkError),
        (asyncpg.UntranslatableCharacterError("NUL"), PermanentSinkError),
        # What was sent may say anything.
        (asyncpg.InvalidTextRepresentationError('"startup parameter"'), PermanentSinkError),
        (asyncpg.ProgramLimitExceededError("row too big"), PermanentSinkError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_error_is_the_worlds_or_the_datas(error: Exception, becomes: type[Exception]) -> None:
    assert isinstance(error, FAILURES)
    assert type(translated(error)) is becomes


def test_our_own_mistake_stays_what_it_is() -> None:
    error = asyncpg.UndefinedTableError("no such table")

    assert translated(error) is error


async def test_connection_that_does_not_close_takes_back_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[asyncpg.Connection[asyncpg.Record]] = []

    async def silent(self: "asyncpg.Connection[asyncpg.Record]", **_: object) -> None:
        closed.append(self)
        raise TimeoutError

    monkeypatch.setattr(asyncpg.Connection, "close", silent)
    async with connected(database) as connection:
        answer = await connection.fetchval("SELECT 1")
    with pytest.raises(SchemaError):
        async with connected(database):
            raise SchemaError("of another version")

    assert answer == 1
    assert [connection.is_closed() for connection in closed] == [True, True]
