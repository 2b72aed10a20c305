"""Calls as rows of Postgres' binary COPY, encoded by hand.

Half of the time that the client library takes for a row: most of a row is bytes that are
already there, and their lengths.

Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, cast

from consumer.connection import PG_EPOCH_US
from consumer.core.call import Call, CallType, IdentityKind
from consumer.identities import Known, ids_of

COLUMNS: Final = (
    "occurred_at",
    "received_at",
    "message_key",
    "offset",
    "partition",
    "identity_id",
    "anonymous_identity_id",
    "type",
    "topic",
    "message_id",
    "name",
    "category",
    "properties",
    "context",
    "traits",
    "previous_id",
    "group_id",
    "claims",
)

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
# Of what alias, group and identify calls alone have.
_NULLS: Final = _NULL * 3
# Each value has its length before it: 8, 8, 16, 8, 4, 8 (, 8) bytes.
_FIXED: Final = struct.Struct("!hiqiqi16siqiiiq")
_BIGINT: Final = struct.Struct("!iq")
_LENGTH: Final = struct.Struct("!i")
# Lengths met most, ready to write; before jsonb's text stands its version.
_SHORT: Final = 2_048
_LENGTHS: Final = tuple(map(_LENGTH.pack, range(_SHORT)))
_JSONB_LENGTHS: Final = tuple(_LENGTH.pack(length + 1) + b"\x01" for length in range(_SHORT))

# So many rows are encoded between two turns of the event loop.
_ROWS_A_PIECE: Final = 250

# Longer names are not met twice.
_MET_CHARS_MAX: Final = 256

_BIGINT_OID: Final = 20


def encoded_calls(
    calls: Iterable[Call], known: Mapping[IdentityKind, Mapping[str, Known]]
) -> Iterator[bytes]:
    """Encode calls for `COPY ... FROM STDIN (FORMAT binary)`, in pieces.

    Args:
        calls: In the order in which they are to be copied.
        known: All identities that they mention.
    """
    users, visitors = known["user"], known["anonymous"]
    parts = [_HEADER]
    rows = 0
    for call in calls:
        anonymous_id = call.anonymous_id
        visitor = None if anonymous_id is None else visitors[anonymous_id].id
        if call.user_id is not None:
            identity = users[call.user_id].id
        elif call.contact is not None:
            identity = known[call.contact.kind][call.contact.value].id
        else:
            # A call points at somebody.
            identity = cast("int", visitor)
        record, name = call.record, call.name
        message_id = call.message_id.encode()
        parts += (
            _FIXED.pack(
                len(COLUMNS), 8, call.at - PG_EPOCH_US, 8, call.received_at - PG_EPOCH_US,
                16, call.message_key, 8, record.offset, 4, record.partition, 8, identity,
            ),
            _NULL if visitor is None else _BIGINT.pack(8, visitor),
            _type_and_topic(call.type, record.topic),
            _length(len(message_id)),
            message_id,
            _met(name) if name is None or len(name) <= _MET_CHARS_MAX else _text(name),
            _met(call.category),
        )  # fmt: skip
        for raw in (call.properties, call.context, call.traits):
            if raw is None:
                parts.append(_NULL)
            else:
                parts += (_jsonb_length(len(raw)), raw)
        if call.previous_id is None and call.group_id is None and not call.claims:
            parts.append(_NULLS)
        else:
            parts += (
                _text(call.previous_id),
                _text(call.group_id),
                _bigints(ids_of(known, call.claims)) if call.claims else _NULL,
            )
        rows += 1
        if rows == _ROWS_A_PIECE:
            yield b"".join(parts)
            parts, rows = [], 0
    parts.append(_TRAILER)
    yield b"".join(parts)


def _length(length: int) -> bytes:
    return _LENGTHS[length] if length < _SHORT else _LENGTH.pack(length)


def _jsonb_length(length: int) -> bytes:
    return _JSONB_LENGTHS[length] if length < _SHORT else _LENGTH.pack(length + 1) + b"\x01"


def _text(text: str | None) -> bytes:
    if text is None:
        return _NULL
    encoded = text.encode()
    return _length(len(encoded)) + encoded


# A few hundred names make nearly all calls.
_met = lru_cache(maxsize=4_096)(_text)


@lru_cache(maxsize=1_024)
def _type_and_topic(type_: CallType, topic: str) -> bytes:
    return _text(type_) + _text(topic)


def _bigints(values: list[int]) -> bytes:
    """A one-dimensional array without nulls."""
    array = struct.pack("!iiIii", 1, 0, _BIGINT_OID, len(values), 1)
    array += b"".join(_BIGINT.pack(8, value) for value in values)
    return _length(len(array)) + array
