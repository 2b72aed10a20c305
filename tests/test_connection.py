"""Whose fault an error of Postgres is."""

import asyncpg
import pytest

from consumer.errors import ConfigError, PermanentSinkError, TransientSinkError
from consumer.postgres import FAILURES, translated


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
