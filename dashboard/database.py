"""The database as the pages see it: views, asked by index, each question with a deadline."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from consumer.postgres import FAILURES, translated

if TYPE_CHECKING:
    import asyncpg

Row: TypeAlias = Mapping[str, Any]

ROLE: Final = "windsor_dashboard"

# Whatever statistics there are: the pages' questions are a few rows by key, and a walk along an
# index that stops early. A plan that reads a table whole is never right for them.
SESSION: Final = {
    "timezone": "UTC",
    "application_name": "windsor-dashboard",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
# For a walk that goes on where the last one stopped: to sort all that is left, or to start helpers,
# costs more each time than the few rows that it is for.
_WALK: Final = "SET LOCAL enable_bitmapscan = off; SET LOCAL max_parallel_workers_per_gather = 0"
_ACQUIRE_SECONDS_MAX: Final = 10.0


class Views:
    """What the pages ask; each method may raise `TransientSinkError`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def rows(self, query: str, *arguments: Any) -> list[Row]:  # noqa: ANN401 - the query's own
        """Ask for rows."""
        async with self.connection() as connection:
            return cast("list[Row]", await connection.fetch(query, *map(_askable, arguments)))

    async def next_rows(self, query: str, *arguments: Any) -> list[Row]:  # noqa: ANN401 - the query's own
        """Ask for the next rows of many, in an index's order, whatever statistics there are."""
        async with self.connection() as connection, connection.transaction(readonly=True):
            await connection.execute(_WALK)
            return cast("list[Row]", await connection.fetch(query, *map(_askable, arguments)))

    async def row(self, query: str, *arguments: Any) -> Row | None:  # noqa: ANN401 - the query's own
        """Ask for one row, None where there is none."""
        found = await self.rows(query, *arguments)
        return found[0] if found else None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Lend a connection, for what is written or asks several questions in a row."""
        try:
            # The pool's own methods would wait for a free one without end.
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS_MAX) as connection:
                # What the pool lends is a connection in all but name.
                yield cast("asyncpg.Connection[asyncpg.Record]", connection)
        except FAILURES as error:
            raise translated(error) from error


def _askable(argument: object) -> object:
    """What was typed, without what Postgres has in no text."""
    if isinstance(argument, str):
        return argument.replace("\0", "\ufffd")
    if isinstance(argument, list):
        return [_askable(one) for one in argument]
    return argument


async def take_role(connection: Any) -> None:  # noqa: ANN401 - a connection, or the pool's proxy of one
    """Take the role with the least rights, where the login may; the pool calls this."""
    await connection.execute(
        f"SELECT set_config('role', '{ROLE}', false)"  # noqa: S608 - a constant
        " WHERE EXISTS ("
        f"    SELECT FROM pg_roles WHERE rolname = '{ROLE}'"
        "     AND pg_has_role(session_user, oid, 'MEMBER')"
        ")"
    )
