"""Calls as rows of the log."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, cast

from consumer.core.call import Call, CallType, IdentityKind
from consumer.postgres.binary_copy import BIGINT, NULL, bigints, jsonb_length, length, text
from consumer.postgres.connection import PG_EPOCH_US
from consumer.postgres.identities import Known

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

# The number of columns, then each value with its length before it: 8, 8, 16, 8, 4, 8 bytes.
_FIXED: Final = struct.Struct("!hiqiqi16siqiiiq")
# Of what alias, group and identify calls alone have.
_NULLS: Final = NULL * 3
# Longer names are not met twice.
_MET_CHARS_MAX: Final = 256


def call_rows(
    calls: Iterable[Call], known: Mapping[IdentityKind, Mapping[str, Known]]
) -> Iterator[Sequence[bytes]]:
    """Encode calls for `consumer.postgres.binary_copy.copy_rows`.

    Args:
        calls: In the order in which they are to be copied.
        known: All identities that they mention.
    """
    users, visitors = known["user"], known["anonymous"]
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
        properties, context, traits = call.properties, call.context, call.traits
        message_id = call.message_id.encode()
        parts = [
            _FIXED.pack(
                len(COLUMNS), 8, call.at - PG_EPOCH_US, 8, call.received_at - PG_EPOCH_US,
                16, call.message_key, 8, record.offset, 4, record.partition, 8, identity,
            ),
            NULL if visitor is None else BIGINT.pack(8, visitor),
            _type_and_topic(call.type, record.topic),
            length(len(message_id)),
            message_id,
            _met(name) if name is None or len(name) <= _MET_CHARS_MAX else text(name),
            _met(call.category),
        ]  # fmt: skip
        parts += (NULL,) if properties is None else (jsonb_length(len(properties)), properties)
        parts += (NULL,) if context is None else (jsonb_length(len(context)), context)
        parts += (NULL,) if traits is None else (jsonb_length(len(traits)), traits)
        if call.previous_id is None and call.group_id is None and not call.claims:
            parts.append(_NULLS)
        else:
            claims = [known[kind][value].id for kind, value in call.claims]
            parts += (
                text(call.previous_id),
                text(call.group_id),
                bigints(claims) if claims else NULL,
            )
        yield parts


# A few hundred names make nearly all calls.
_met = lru_cache(maxsize=4_096)(text)


@lru_cache(maxsize=1_024)
def _type_and_topic(type_: CallType, topic: str) -> bytes:
    return text(type_) + text(topic)
