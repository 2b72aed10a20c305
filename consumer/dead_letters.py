"""Dead letters, for a person to list, look at, send again or put away.

Theory of operation
-------------------
A letter is *open* until it is replayed or discarded. What is replayed is the record, whole and
as it was: raw value, key, headers and timestamp, to the partition it came from. A batch envelope
with several letters is one record, so it is sent once and all of its letters are marked.

A record that is sent again is a redelivery: its calls have the same ids and clocks, so those that
are stored already change nothing, and those that can be applied now land once, however often it
is sent. Therefore the order is send, wait for the acknowledgement, mark: a crash between leaves
an open letter whose record is sent once more, which is harmless, and loses nothing.

What still cannot be applied comes back as a new letter at the record's new offset, while the old
one stays marked as replayed. A replay ends at the newest letter that there is when it begins, or
it would chase its own failures.

Memory is bounded: letters are paged without their values, and values fetched up to 8 MiB at a
time (or one, where it is larger).
"""

import base64
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import asyncpg
import msgspec

from consumer.core.call import Record
from consumer.errors import RecordRefusedError, SourceError, WindsorError
from consumer.postgres import FAILURES, translated
from consumer.postgres.rows import columns
from consumer.schema import check_schema
from consumer.sql import load_queries

_PAGE_LETTERS: Final = 500
_FETCHED_BYTES_MAX: Final = 8 * 1024 * 1024
# So many alone point at one record; more, and it is the topic's settings.
_REFUSED_MAX: Final = 100
_SAME_VALUE_MAX: Final = 5

_SQL: Final = load_queries("dead_letters.sql")
_SELECTED: Final = f"WITH selected AS ({_SQL['selected']})\n"

_decode_headers = msgspec.json.Decoder(list[tuple[str, str | None]]).decode

RecordKey: TypeAlias = tuple[str, int, int, bytes]
"""Topic, partition, offset and the value's hash: a topic made again uses its offsets again."""


class Selection(NamedTuple):
    """Which dead letters: those for which every condition holds that is given."""

    ids: tuple[int, ...] = ()
    reason: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    since: datetime | None = None
    """Failed then or later."""
    until: datetime | None = None
    """Failed before."""
    closed: bool = False
    """Those that were replayed or discarded too."""
    after: int = 0
    """An id: only newer ones."""
    limit: int | None = None
    """At most so many, the oldest."""


class Bounds(NamedTuple):
    """The moment at which a replay begins."""

    newest_id: int
    now: datetime


class DeadLetter(NamedTuple):
    """A dead letter without its record's bytes."""

    id: int
    topic: str
    partition: int
    offset: int
    position: int
    reason: str
    detail: str
    value_hash: bytes
    value_bytes: int
    record_timestamp: datetime | None
    failed_at: datetime
    replayed_at: datetime | None
    discarded_at: datetime | None

    @property
    def record(self) -> RecordKey:
        """What tells its record from all others."""
        return self.topic, self.partition, self.offset, self.value_hash

    @property
    def state(self) -> Literal["open", "replayed", "discarded"]:
        """What was done last."""
        if self.discarded_at is None:
            return "open" if self.replayed_at is None else "replayed"
        if self.replayed_at is None or self.replayed_at < self.discarded_at:
            return "discarded"
        return "replayed"


class StoredRecord(NamedTuple):
    """A record as it was delivered; a `consumer.core.call.Record`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since the epoch, -1 for none."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Counts(NamedTuple):
    """What a selection holds."""

    letters: int
    records: int
    by_reason: dict[tuple[str, str], int]
    """Letters by topic and reason."""

    @property
    def topics(self) -> frozenset[str]:
        """The topics of all."""
        return frozenset(topic for topic, _ in self.by_reason)


class Replayed(NamedTuple):
    """What a replay did."""

    records: int
    refused: dict[int, str]
    """Why Kafka did not take a record, by the letter's id; those stay as they were."""


class Sender(Protocol):
    """`consumer.kafka.KafkaSender`."""

    async def send(self, records: Sequence[Record]) -> Sequence[WindsorError | None]:
        """Send records again; for each None once Kafka has it, else what went wrong."""


@asynccontextmanager
async def open_dead_letters(dsn: str) -> AsyncIterator["DeadLetters"]:
    """Open the dead letters of a database.

    Raises:
        SchemaError: It has another version's schema, or none.
        TransientSinkError: It cannot be reached.
    """
    await check_schema(dsn)
    with _translating():
        connection = await asyncpg.connect(
            dsn,
            timeout=10,
            command_timeout=60,
            server_settings={"timezone": "UTC", "application_name": "windsor"},
        )
    try:
        yield DeadLetters(connection)
    finally:
        await connection.close(timeout=5)


class DeadLetters:
    """The dead letters of one database; each method may raise `TransientSinkError`."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def require(self, ids: Sequence[int]) -> None:
        """Make sure that letters are there.

        Raises:
            WindsorError: One is not.
        """
        there = {row["id"] for row in await self._fetch(_SQL["existing"], ids)}
        for id_ in ids:
            if id_ not in there:
                raise WindsorError(
                    f"no dead letter {id_}: `windsor dead-letters list --all` shows all"
                )

    async def bounds(self) -> Bounds:
        """Tell what there is now."""
        (row,) = await self._fetch(_SQL["bounds"])
        return Bounds(row["newest_id"], row["now"])

    async def counts(self, selection: Selection) -> Counts:
        """Count what a selection holds."""
        total, *groups = await self._fetch(
            _SELECTED + _SQL["counts"],
            *_conditions(selection, None),
            selection.after,
            selection.limit,
        )
        by_reason = {(row["topic"], row["reason"]): row["letters"] for row in groups}
        return Counts(total["letters"], total["records"], by_reason)

    async def pages(
        self, selection: Selection, bounds: Bounds | None = None
    ) -> AsyncIterator[list[DeadLetter]]:
        """Give the letters of a selection, oldest first, some at a time.

        Args:
            selection: Its limit is over all pages.
            bounds: Leave out letters that are newer, or were replayed since.
        """
        after, left = selection.after, selection.limit
        while left is None or left > 0:
            size = _PAGE_LETTERS if left is None else min(left, _PAGE_LETTERS)
            rows = await self._fetch(
                _SELECTED + _SQL["page"], *_conditions(selection, bounds), after, size
            )
            if not rows:
                return
            letters = [DeadLetter(**row) for row in rows]
            yield letters
            after = letters[-1].id
            left = None if left is None else left - len(letters)

    async def with_records(
        self, letters: Iterable[DeadLetter]
    ) -> AsyncIterator[list[tuple[DeadLetter, StoredRecord]]]:
        """Fetch the records of letters, as many at a time as memory may hold."""
        for some in _within_bytes(letters):
            rows = await self._fetch(_SQL["records"], [letter.id for letter in some])
            records = {row["id"]: _stored_record(row) for row in rows}
            # An operator may have deleted a row meanwhile.
            yield [(letter, records[letter.id]) for letter in some if letter.id in records]

    async def same_value(self, letter: DeadLetter) -> list[DeadLetter]:
        """Find other letters of the same value in its topic, the newest few."""
        rows = await self._fetch(
            _SQL["same_value"], letter.topic, letter.value_hash, letter.id, _SAME_VALUE_MAX
        )
        ids = tuple(row["id"] for row in rows)
        found = self.pages(Selection(ids=ids, closed=True)) if ids else None
        return [] if found is None else [other async for page in found for other in page]

    async def mark_replayed(self, letters: Sequence[DeadLetter], selected: Sequence[int]) -> None:
        """Mark all letters of records that were sent again, but those that were discarded.

        Args:
            letters: One of each record.
            selected: Ids of letters to mark though they were discarded.
        """
        if letters:
            records = columns(letter.record for letter in letters)
            await self._fetch(_SQL["mark_replayed"], *records, selected)

    async def mark_discarded(self, letters: Sequence[DeadLetter]) -> int:
        """Mark those that are still open; tell how many were."""
        return len(await self._fetch(_SQL["mark_discarded"], [letter.id for letter in letters]))

    async def _fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:  # noqa: ANN401 - the query's own
        with _translating():
            return await self._connection.fetch(query, *arguments)


async def replay(
    letters: DeadLetters, sender: Sender, selection: Selection, sent: Callable[[int], None]
) -> Replayed:
    """Send the records of a selection again, and mark them.

    Args:
        letters: Where they are.
        sender: Where they go.
        selection: Which.
        sent: Told the number of records after each step.

    Raises:
        SourceError: Kafka is away; what it took is marked, the rest is as it was.
        TransientSinkError: Postgres is away; as much was sent, and may be sent again.
    """
    bounds = await letters.bounds()
    records_count = 0
    refused: dict[int, str] = {}
    async for page in letters.pages(selection, bounds):
        # Of a record with several letters the first; on later pages the others are marked.
        firsts = {letter.record: letter for letter in reversed(page)}
        named = [letter for letter in page if firsts[letter.record] is letter]
        async for some in letters.with_records(named):
            errors = await sender.send([record for _, record in some])
            taken = [
                letter for (letter, _), error in zip(some, errors, strict=True) if error is None
            ]
            whole = {letter.record for letter in taken}
            await letters.mark_replayed(taken, [n.id for n in page if n.record in whole])
            records_count += len(taken)
            for (letter, _), error in zip(some, errors, strict=True):
                if isinstance(error, RecordRefusedError):
                    refused[letter.id] = str(error)
                elif error is not None:
                    raise error
            sent(len(some))
            if len(refused) >= _REFUSED_MAX:
                id_, reason = refused.popitem()
                raise SourceError(
                    f"{len(refused) + 1} records were refused, such as that of dead letter {id_}:"
                    f" {reason}: look at the topic's settings"
                )
    return Replayed(records_count, refused)


async def discard(letters: DeadLetters, selection: Selection, marked: Callable[[int], None]) -> int:
    """Mark the open letters of a selection as discarded; tell how many.

    Args:
        letters: Where they are.
        selection: Which; its `closed` is of no use.
        marked: Told the number of letters after each step.
    """
    bounds = await letters.bounds()
    total = 0
    async for page in letters.pages(selection._replace(closed=False), bounds):
        total += await letters.mark_discarded(page)
        marked(len(page))
    return total


def _conditions(selection: Selection, bounds: Bounds | None) -> tuple[Any, ...]:
    """The arguments $1 to $10 of `selected`."""
    return (
        list(selection.ids) or None,
        selection.reason,
        selection.topic,
        selection.partition,
        selection.offset,
        selection.since,
        selection.until,
        selection.closed,
        None if bounds is None else bounds.newest_id,
        None if bounds is None else bounds.now,
    )


def _within_bytes(letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    some: list[DeadLetter] = []
    total_bytes = 0
    for letter in letters:
        total_bytes += letter.value_bytes
        if some and total_bytes > _FETCHED_BYTES_MAX:
            yield some
            some, total_bytes = [], letter.value_bytes
        some.append(letter)
    if some:
        yield some


def _stored_record(row: asyncpg.Record) -> StoredRecord:
    return StoredRecord(
        row["topic"],
        row["partition"],
        row["offset"],
        row["timestamp_ms"],
        row["key"],
        row["value"],
        [
            (name, None if value is None else base64.b64decode(value))
            for name, value in _decode_headers(row["headers"])
        ],
    )


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise translated(error) from error
