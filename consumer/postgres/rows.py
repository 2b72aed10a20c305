"""Rows of the projections and of dead letters, from and to the values of the core."""

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from consumer.core.call import Clock
from consumer.core.fold import Group, Traits
from consumer.core.merge import IdentityState, UserState
from consumer.postgres.binary_copy import (
    BIGINT,
    NO_REGISTER,
    NULL,
    jsonb_length,
    length,
    register,
    text,
    timestamp,
)
from consumer.postgres.connection import PG_EPOCH_US

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
    # By position: a name would be looked up for each column of each row.
    (
        id_, kind, value, listed, identified,
        claimed_by, claimed_at, claimed_message_id,
        group_id, group_at, group_message_id,
        traits, trait_clocks,
    ) = row  # fmt: skip
    return IdentityState(
        id_,
        kind,
        value,
        listed,
        identified,
        None if claimed_by is None else (Clock(claimed_at, claimed_message_id), claimed_by),
        None if group_id is None else (Clock(group_at, group_message_id), group_id),
        decode_traits(traits, trait_clocks),
    )


def identity_row(state: IdentityState) -> tuple[Any, ...]:
    """Write a row for `update_identities`, and the first columns of one for `insert_identities`."""
    return (
        state.id,
        state.listed,
        state.identified,
        *_register_columns(state.claim),
        *_register_columns(state.group),
        *encode_traits(state.traits),
    )


def claim_clock_row(state: IdentityState) -> tuple[Any, ...]:
    """Write a row for `update_claim_clocks`, of an identity that is claimed."""
    assert state.claim is not None  # noqa: S101 - its clock has changed
    return (state.id, *state.claim[0])


def traits_row(id_: int, traits: Traits) -> tuple[Any, ...]:
    """Write a row for `update_user_traits` and `put_own_traits`."""
    return (id_, *encode_traits(traits))


NEW_IDENTITY_COLUMNS: Final = (
    *("id", "listed", "identified"),
    *("claimed_by", "claimed_at", "claimed_message_id"),
    *("group_id", "group_at", "group_message_id"),
    *("traits", "trait_clocks", "kind", "value"),
)
_NEW_IDENTITY: Final = struct.Struct("!hiqi?i?")


def new_identity_row(state: IdentityState) -> Sequence[bytes]:
    """Encode a row for `consumer.postgres.binary_copy.copy_rows`."""
    claim = state.claim
    return (
        _NEW_IDENTITY.pack(
            len(NEW_IDENTITY_COLUMNS), 8, state.id, 1, state.listed, 1, state.identified
        ),
        *(NO_REGISTER if claim is None else register(BIGINT.pack(8, claim[1]), claim[0])),
        *_group_parts(state.group),
        _traits_part(state.traits),
        text(state.kind),
        text(state.value),
    )


NEW_USER_COLUMNS: Final = (
    *("id", "identities_count", "identified", "user_id"),
    *("group_id", "group_at", "group_message_id"),
    *("merged_at", "merged_message_id"),
    *("traits", "trait_clocks"),
)
_NEW_USER: Final = struct.Struct("!hiqiii?")


def new_user_row(state: UserState) -> Sequence[bytes]:
    """Encode a row for `consumer.postgres.binary_copy.copy_rows`."""
    merged = state.merged
    return (
        _NEW_USER.pack(
            len(NEW_USER_COLUMNS), 8, state.id, 4, state.identities_count, 1, state.identified
        ),
        text(state.name),
        *_group_parts(state.group),
        *((NULL, NULL) if merged is None else (timestamp(merged.at), text(merged.message_id))),
        _traits_part(state.traits),
    )


NEW_MEMBER_COLUMNS: Final = ("identity_id", "user_id", "traits", "trait_clocks")
_NEW_MEMBER: Final = struct.Struct("!hiqiq")


def new_member_row(identity: int, user: int, own_traits: Traits | None) -> Sequence[bytes]:
    """Encode a row for `consumer.postgres.binary_copy.copy_rows`."""
    return (
        _NEW_MEMBER.pack(len(NEW_MEMBER_COLUMNS), 8, identity, 8, user),
        *((NULL, NULL) if own_traits is None else (_traits_part(own_traits),)),
    )


NEW_SEEN_COLUMNS: Final = ("identity_id", "first_at", "last_at")
_NEW_SEEN: Final = struct.Struct("!hiqiqiq")


def new_seen_row(identity: int, first_at: int, last_at: int) -> Sequence[bytes]:
    """Encode a row for `consumer.postgres.binary_copy.copy_rows`."""
    first, last = first_at - PG_EPOCH_US, last_at - PG_EPOCH_US
    return (_NEW_SEEN.pack(len(NEW_SEEN_COLUMNS), 8, identity, 8, first, 8, last),)


def _group_parts(group: Group | None) -> Sequence[bytes]:
    return NO_REGISTER if group is None else register(text(group[1]), group[0])


def _traits_part(traits: Traits) -> bytes:
    """The columns `traits` and `trait_clocks`."""
    if not traits.clocks:
        return _NO_TRAITS
    values, clocks = encode_traits(traits)
    return b"".join((jsonb_length(len(values)), values, length(len(clocks)), clocks))


_NO_TRAITS: Final = jsonb_length(2) + _NOTHING + length(2) + _NOTHING


class Members(NamedTuple):
    """Identities whose users are locked."""

    users: list[UserState]
    user_of: dict[int, int]
    own_traits: dict[int, Traits]
    """Of those whose own are kept apart from their user's."""


def read_members(rows: Iterable[asyncpg.Record]) -> Members:
    """Read the rows of `lock_members`."""
    users: dict[int, UserState] = {}
    user_of: dict[int, int] = {}
    own: dict[int, Traits] = {}
    for row in rows:
        (
            identity, own_traits, own_trait_clocks,
            id_, user_id, identities_count, identified,
            group_id, group_at, group_message_id,
            merged_at, merged_message_id,
            traits, trait_clocks,
        ) = row  # fmt: skip
        user_of[identity] = id_
        if own_traits is not None:
            own[identity] = decode_traits(own_traits, own_trait_clocks)
        if id_ not in users:
            users[id_] = UserState(
                id_,
                user_id,
                identities_count,
                identified,
                None if group_id is None else (Clock(group_at, group_message_id), group_id),
                None if merged_at is None else Clock(merged_at, merged_message_id),
                decode_traits(traits, trait_clocks),
            )
    return Members(list(users.values()), user_of, own)


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
