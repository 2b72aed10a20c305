"""`windsor status`: what an operator asks first, of both sides; one that is away is one line."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from consumer.errors import SourceError, TransientSinkError
from consumer.kafka import KafkaOptions, Lag, lag_of_group
from consumer.postgres import connected
from consumer.schema import check_schema
from consumer.sql import load_queries

_STATUS: Final = load_queries("status.sql")


class Stored(NamedTuple):
    """What the database says."""

    schema_version: int
    users: int
    calls_estimate: int
    dead_letters: int
    """Neither replayed nor discarded."""
    pruned_before: str | None
    """The day before which the retention has dropped events."""
    newest_event_received_at: datetime | None
    newest_event_age_seconds: float | None
    """How long ago that was; None while there is none."""


class Status(NamedTuple):
    """Both sides; None is one that could not be asked, or was not to be."""

    database: Stored | None
    lag: Sequence[Lag] | None
    problems: Sequence[str]
    """One line each, for a person."""

    @property
    def lag_records(self) -> int | None:
        """Records of all partitions that are not committed yet."""
        return None if self.lag is None else sum(lag.records for lag in self.lag)

    def json(self) -> str:
        """For a program; names do not change."""
        answer: dict[str, Any] = {"database": None, "lag": None, "problems": self.problems}
        if self.database is not None:
            answer["database"] = self.database._asdict()
        if self.lag is not None:
            partitions = [
                {
                    "topic": lag.partition.topic,
                    "partition": lag.partition.partition,
                    "committed": lag.committed,
                    "end": lag.end,
                    "records": lag.records,
                }
                for lag in self.lag
            ]
            answer["lag"] = {"records": self.lag_records, "partitions": partitions}
        return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()

    def text(self) -> str:
        """One line a fact, for a person."""
        rows: list[tuple[str, Any]] = []
        if (stored := self.database) is not None:
            newest = stored.newest_event_received_at
            rows += [
                ("schema version", stored.schema_version),
                ("users", f"{stored.users:,}"),
                ("calls (estimate)", f"{stored.calls_estimate:,}"),
                ("dead letters", f"{stored.dead_letters:,}"),
                ("pruned before", stored.pruned_before),
                ("newest event received", newest and newest.isoformat(" ", "seconds")),
                ("age of newest event", newest and f"{stored.newest_event_age_seconds:,.0f} s"),
            ]
        if self.lag is None:
            rows.append(("lag", None))
        else:
            rows.append(("lag", f"{self.lag_records:,} records"))
            rows += [
                (f"lag {lag.partition.topic} {lag.partition.partition}", f"{lag.records:,}")
                for lag in self.lag
            ]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(
            [f"{name:{width}}  {'-' if value is None else value}" for name, value in rows]
        )


async def status(dsn: str, kafka: KafkaOptions | None) -> Status:
    """Ask both sides at once.

    Args:
        dsn: The database.
        kafka: None where it is not told of; that is no problem, but there is no lag.

    Raises:
        SchemaError: The database has another version's schema, or none.
    """
    stored, lag = await asyncio.gather(_stored(dsn), _lag(kafka))
    problems = [answer for answer in (stored, lag) if isinstance(answer, str)]
    return Status(
        None if isinstance(stored, str) else stored,
        None if isinstance(lag, str) else lag,
        problems,
    )


async def _stored(dsn: str) -> Stored | str:
    try:
        await check_schema(dsn)
        return await _ask_database(dsn)
    except TransientSinkError as error:
        return str(error)


async def _ask_database(dsn: str) -> Stored:
    """Ask each question, with a deadline.

    Raises:
        TransientSinkError: Postgres cannot be reached.
    """
    async with connected(dsn) as connection:
        (row,) = await connection.fetch(_STATUS["projections"])
        newest = await connection.fetchval(_STATUS["newest_event"])
        if newest is None:
            newest = await connection.fetchval(_STATUS["newest_call"])
        now = await connection.fetchval(_STATUS["now"])
    age = None if newest is None else max(0.0, (now - newest).total_seconds())
    return Stored(**row, newest_event_received_at=newest, newest_event_age_seconds=age)


async def _lag(kafka: KafkaOptions | None) -> Sequence[Lag] | str | None:
    if kafka is None:
        return None
    client = logging.getLogger("aiokafka")
    level = client.level
    # What the client has to say of a broker that is away, our one line says.
    client.setLevel(logging.CRITICAL)
    try:
        return await lag_of_group(kafka)
    except SourceError as error:
        return str(error)
    finally:
        client.setLevel(level)
