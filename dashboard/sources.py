"""The sources that the endpoint knows, kept in step with the database.

Tokens are checked in memory. What changes in the database is told to every replica as it is
committed (LISTEN), and read again each second besides, for where a pooler swallows that. While
the database is away the sources known last go on, for an hour: calls are safe in Kafka without it.
That there is no such source is said by a reading alone that began after the sender asked.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg
import structlog

from consumer.postgres import FAILURES
from consumer.sql import load_queries
from dashboard.allowance import Allowance
from dashboard.answers import Answer, refused
from dashboard.database import take_role
from dashboard.tokens import is_token, source_id_of

if TYPE_CHECKING:
    from consumer.postgres import Connection

log = structlog.get_logger()

_SQL: Final = load_queries("sources.sql", "dashboard.sql")
_POLL_SECONDS: Final = 1.0
# However many ask at once for a token that nobody knows.
_READING_INTERVAL_SECONDS: Final = 0.02
_REREAD_SECONDS_MAX: Final = 2.0
_USES_INTERVAL_SECONDS: Final = 2.0
_STALE_SECONDS_MAX: Final = 3600.0
_STATEMENT_SECONDS_MAX: Final = 5.0
# Compared with where there is no source, so that the time tells nothing.
_NOBODYS_HASH: Final = bytes(32)

NO_TOKEN: Final = refused(
    401, "no_token", "no token: send it as the user name of Basic auth, as Bearer, or as writeKey"
)
UNKNOWN_TOKEN: Final = refused(
    401, "unknown_token", "no source has this token: generate one on the Sources page"
)
REVOKED_TOKEN: Final = refused(
    401, "revoked_token", "this token was revoked: generate another on the Sources page"
)
UNCHECKED_TOKEN: Final = refused(
    503, "unavailable", "tokens cannot be checked now: the database is away", 5
)


class KnownSource(NamedTuple):
    """What the endpoint needs of a source."""

    source_id: str
    name: str
    token_hash: bytes
    calls_per_second_max: int | None
    revoked: bool


class Sources:
    """Checks tokens, and how fast each source sends."""

    def __init__(self, dsn: str, calls_per_second_max: int, connect_timeout_seconds: float) -> None:
        self._dsn = dsn
        self._calls_per_second_max = calls_per_second_max
        self._connect_timeout_seconds = connect_timeout_seconds
        self._known: dict[str, KnownSource] = {}
        self._allowances: dict[str, Allowance] = {}
        self._read_at: float | None = None
        self._uses: dict[str, datetime] = {}
        self._woken = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    async def source_of(self, token: str | None) -> KnownSource | Answer:
        """Find whose token this is.

        Args:
            token: As sent; None where none was.

        Returns:
            The source, or the refusal.
        """
        if token is None:
            return NO_TOKEN
        asked_at = time.monotonic()
        source_id = source_id_of(token)
        if source_id is not None and source_id not in self._known:
            # Perhaps so new that we have not heard of it.
            await self._reread()
        known = self._known.get(source_id or "")
        is_theirs = is_token(token, known.token_hash if known else _NOBODYS_HASH)
        if not self._is_fresh():
            return UNCHECKED_TOKEN
        if known is None and source_id is not None and not self._has_read_since(asked_at):
            # Senders throw away what is answered 401.
            return UNCHECKED_TOKEN
        if known is None or not is_theirs:
            return UNKNOWN_TOKEN
        return REVOKED_TOKEN if known.revoked else known

    def take(self, source: KnownSource, calls: int) -> Answer | None:
        """Take calls from what a source may send; the refusal where it sends too fast."""
        now = time.monotonic()
        rate = source.calls_per_second_max or self._calls_per_second_max
        allowance = self._allowances.get(source.source_id)
        if allowance is None or allowance.calls_per_second != rate:
            allowance = self._allowances[source.source_id] = Allowance(rate, now)
        wait = allowance.take(calls, now)
        if wait:
            return refused(
                429, "rate_limited", f"more than {rate} calls a second of one token", int(wait) + 1
            )
        return None

    def used(self, source: KnownSource) -> None:
        """Remember that a source's calls were taken, to be reported soon."""
        self._uses[source.source_id] = datetime.now(UTC)

    def ready_reason(self) -> str | None:
        """Why tokens cannot be checked, None while they can."""
        return None if self._is_fresh() else "waiting for the database: tokens cannot be checked"

    async def keep(self) -> None:
        """Keep in step with the database, for ever."""
        reported_at = time.monotonic()
        is_away = False
        while True:
            try:
                async with self._listening() as connection:
                    while True:
                        await self._read(connection)
                        is_away = False
                        if self._uses and time.monotonic() - reported_at > _USES_INTERVAL_SECONDS:
                            reported_at = time.monotonic()
                            await self._report_uses(connection)
                        await asyncio.sleep(_READING_INTERVAL_SECONDS)
                        with suppress(TimeoutError):
                            await asyncio.wait_for(self._woken.wait(), _POLL_SECONDS)
            except FAILURES as error:
                if not is_away:
                    log.warning("sources.unreadable", error=type(error).__name__)
                is_away = True
                self._release()
                await asyncio.sleep(_POLL_SECONDS)

    async def _reread(self) -> None:
        """Wait for a reading that begins after now; it may fail, or take too long."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._woken.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(waiter, _REREAD_SECONDS_MAX)

    def _has_read_since(self, moment: float) -> bool:
        """Whether what is known was read by a reading that began after a moment."""
        return self._read_at is not None and self._read_at >= moment

    def _is_fresh(self) -> bool:
        read_at = self._read_at
        return read_at is not None and time.monotonic() - read_at < _STALE_SECONDS_MAX

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator["Connection"]:
        connection = await asyncpg.connect(
            self._dsn,
            timeout=self._connect_timeout_seconds,
            command_timeout=_STATEMENT_SECONDS_MAX,
            server_settings={"application_name": "windsor-endpoint", "timezone": "UTC"},
        )
        try:
            await take_role(connection)
            await connection.add_listener("windsor_sources", lambda *_: self._woken.set())
            yield connection
        finally:
            connection.terminate()

    async def _read(self, connection: "Connection") -> None:
        self._woken.clear()
        waiting, self._waiting = self._waiting, []
        begun_at = time.monotonic()
        try:
            rows = await connection.fetch(_SQL["known"])
            self._known = {row["source_id"]: KnownSource(*row) for row in rows}
            self._read_at = begun_at
        finally:
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    async def _report_uses(self, connection: "Connection") -> None:
        uses = dict(self._uses)
        await connection.execute(_SQL["used"], list(uses), list(uses.values()))
        for source_id, used_at in uses.items():
            if self._uses[source_id] == used_at:
                del self._uses[source_id]

    def _release(self) -> None:
        """Let those go who wait for a reading: there is none now."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
