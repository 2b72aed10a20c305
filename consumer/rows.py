"""Rows of the projections and of dead letters, from and to the values of the core."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Final

import asyncpg
import msgspec

from consumer.core.call import Clock
from consumer.core.fold import Traits
from consumer.core.merge import IdentityState, UserState

_YEAR_10000_MS: Final = 253_402_300_800_000

_NOTHING: Final = b"{}"

_decode_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_clocks = msgspec.json.Decoder(dict[str, Clock]).decode
_encode = msgspec.json.Encoder().encode


def decode_traits(values: bytes, clocks: bytes) -> Traits:
    """Read a pair of `traits` and `trait_clocks`: a clock without a value is a tombstone."""
    if clocks == _NOTHING:
        return Traits()
    return Traits(_decode_clocks(clocks), _decode_values(values))


def encode_traits(traits: Traits) -> tuple[bytes, bytes]:
    """Write a pair of `traits` (without tombstones) and `trait_clocks`."""
    if not traits.clocks:
        return _NOTHING, _NOTHING
    return _encode(traits.values), _encode(traits.clocks)


def identity_state(row: asyncpg.Record) -> IdentityState:
    """Read a row of `lock_identities`."""
    return IdentityState(
        id=row["id"],
        kind=row["kind"],
        value=row["value"],
        listed=row["listed"],
        identified=row["identified"],
        claim=_register(row, "claimed_by", "claimed_at", "claimed_message_id"),
        group=_register(row, "group_id", "group_at", "group_message_id"),
        traits=decode_traits(row["traits"], row["trait_clocks"]),
    )


def identity_row(state: IdentityState) -> tuple[Any, ...]:
    """Write a row for `update_identities`."""
    return (
        state.id,
        state.listed,
        state.identified,
        *_register_columns(state.claim),
        *_register_columns(state.group),
        *encode_traits(state.traits),
    )


def user_state(row: asyncpg.Record) -> UserState:
    """Read a row of `lock_users`."""
    return UserState(
        id=row["id"],
        name=row["user_id"],
        identities_count=row["identities_count"],
        identified=row["identified"],
        group=_register(row, "group_id", "group_at", "group_message_id"),
        merged=None
        if row["merged_at"] is None
        else Clock(row["merged_at"], row["merged_message_id"]),
        traits=decode_traits(row["traits"], row["trait_clocks"]),
    )


def user_row(state: UserState) -> tuple[Any, ...]:
    """Write a row for `put_users`."""
    return (
        state.id,
        state.name,
        state.identities_count,
        state.identified,
        *_register_columns(state.group),
        None if state.merged is None else state.merged.at,
        None if state.merged is None else state.merged.message_id,
        *encode_traits(state.traits),
    )


def _register(row: asyncpg.Record, value: str, at: str, message_id: str) -> Any:  # noqa: ANN401 - the value is the column's
    """A clock and what it set, None where nothing did."""
    return None if row[value] is None else (Clock(row[at], row[message_id]), row[value])


def _register_columns(register: tuple[Clock, Any] | None) -> tuple[Any, ...]:
    if register is None:
        return (None, None, None)
    clock, value = register
    return (value, clock.at, clock.message_id)


def columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Turn rows into the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)]


def record_timestamp(timestamp_ms: int) -> int | None:
    """Microseconds of a record's timestamp, None where Postgres could not hold it."""
    # A producer may have sent anything.
    return timestamp_ms * 1000 if 0 <= timestamp_ms < _YEAR_10000_MS else None


def headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """Headers as JSON pairs; values in base64, since they are bytes."""
    return _encode(
        [
            (
                name.replace("\x00", "\ufffd"),
                None if value is None else base64.b64encode(value).decode(),
            )
            for name, value in headers
        ]
    )
