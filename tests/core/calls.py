"""Calls made by hand, for tests that start behind the decoder."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from consumer.core.call import Call, CallType, Clock, Identity
from consumer.core.fold import KINDS, Delta, Deltas, Traits

# 2026-10-05T00:00:00Z, a Monday.
START_US = 1_791_158_400_000_000


class HandRecord(NamedTuple):
    """A Kafka record made by hand."""

    offset: int = 0
    topic: str = "calls"
    partition: int = 0
    timestamp: int = START_US // 1000
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: Sequence[tuple[str, bytes | None]] = ()


def call(type_: CallType, at: int, message_id: str = "", **fields: Any) -> Call:  # noqa: ANN401 - a Call's own fields
    """Make a call `at` seconds after the start."""
    message_id = message_id or f"{type_}-{at}"
    return Call(
        type=type_,
        at=START_US + at * 1_000_000,
        message_id=message_id,
        message_key=hashlib.blake2b(message_id.encode(), digest_size=16).digest(),
        record=fields.pop("record", HandRecord(at)),
        position=0,
        received_at=START_US + at * 1_000_000,
        **fields,
    )


def traits_of(**entries: tuple[Clock, bytes]) -> Traits:
    """Traits by key: a clock and raw JSON, `null` for one that was removed."""
    traits = Traits()
    for key, (clock, value) in entries.items():
        traits.set(clock, {key: value})
    return traits


def by_identity(deltas: Deltas) -> dict[Identity, Delta]:
    """Each identity that a batch says anything of."""
    return {
        Identity(kind, value): delta
        for kind in KINDS
        for value, delta in deltas.of_kind(kind).items()
    }
