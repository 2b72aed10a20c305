"""Rows of Postgres' binary COPY, encoded by hand.

A fraction of the time that the client library takes for a row or for the same row in arrays:
most of it is bytes that are already there, and their lengths.

Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from consumer.postgres.connection import PG_EPOCH_US, Connection

NULL: Final = b"\xff\xff\xff\xff"
BIGINT: Final = struct.Struct("!iq")
"""A length of 8, and the value; a timestamp likewise, in microseconds since PG_EPOCH_US."""

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_LENGTH: Final = struct.Struct("!i")
# Lengths met most, ready to write; before jsonb's text stands its version.
_SHORT: Final = 2_048
_LENGTHS: Final = tuple(map(_LENGTH.pack, range(_SHORT)))
_JSONB_LENGTHS: Final = tuple(_LENGTH.pack(length + 1) + b"\x01" for length in range(_SHORT))
_BIGINT_OID: Final = 20

# So many rows are encoded between two turns of the event loop.
_ROWS_A_PIECE: Final = 250


async def copy_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[bytes]]
) -> None:
    """Copy rows into a table of ours, encoded while they are sent.

    Args:
        connection: In a transaction.
        table: In the schema `windsor_private`.
        columns: Of the table.
        rows: Each in parts: the number of columns (two bytes), then for each column the
            value's length (four bytes, -1 for null) and the value.
    """

    async def pieces() -> AsyncIterator[bytes]:
        for piece in _joined(rows):
            yield piece

    await connection.copy_to_table(
        table, schema_name="windsor_private", columns=columns, format="binary", source=pieces()
    )


def _joined(rows: Iterable[Sequence[bytes]]) -> Iterator[bytes]:
    parts = [_HEADER]
    count = 0
    for row in rows:
        parts += row
        count += 1
        if count == _ROWS_A_PIECE:
            yield b"".join(parts)
            parts, count = [], 0
    parts.append(_TRAILER)
    yield b"".join(parts)


def length(size: int) -> bytes:
    """The length before a value of so many bytes."""
    return _LENGTHS[size] if size < _SHORT else _LENGTH.pack(size)


def jsonb_length(size: int) -> bytes:
    """The length and the version before a jsonb of so many bytes of text."""
    return _JSONB_LENGTHS[size] if size < _SHORT else _LENGTH.pack(size + 1) + b"\x01"


def text(value: str | None) -> bytes:
    """A text, or the label of an enum."""
    if value is None:
        return NULL
    encoded = value.encode()
    return length(len(encoded)) + encoded


def timestamp(at: int) -> bytes:
    """Microseconds since 1970 as a timestamptz."""
    return BIGINT.pack(8, at - PG_EPOCH_US)


def bigints(values: Sequence[int]) -> bytes:
    """A one-dimensional array without nulls."""
    array = struct.pack("!iiIii", 1, 0, _BIGINT_OID, len(values), 1)
    array += b"".join(BIGINT.pack(8, value) for value in values)
    return length(len(array)) + array


def register(value: bytes, clock: tuple[int, str]) -> Sequence[bytes]:
    """A value and the clock that set it: three columns."""
    return (value, timestamp(clock[0]), text(clock[1]))


NO_REGISTER: Final[Sequence[bytes]] = (NULL, NULL, NULL)
