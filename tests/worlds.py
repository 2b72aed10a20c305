"""Dense small worlds: few people, few devices, few moments, every way to confuse them."""

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from hypothesis import strategies as st

START_MS = 1_791_158_400_000  # 2026-10-05T00:00:00Z, a Monday.
MONDAY = "2026-10-12T00:00:00.000Z"

USERS = ["u1", "u2", "u3", "ann@example.com", "v1"]
VISITORS = ["v1", "v2", "v3"]
EMAILS = ["ann@example.com", " Ann@Example.com", "bob@example.com"]
PHONES = ["+14155552671", "+1 415-555-2671", "+442071838750", "123"]
GROUPS = ["g1", "g2"]
# Ties, a late week, and the last moment of a week beside the first of the next.
TIMES = [
    "2026-10-05T00:00:00.000Z", "2026-10-05T00:00:01.000Z", "2026-10-05T00:00:01Z",
    "2026-10-05T00:00:02.000Z", "2026-10-11T23:59:59.999Z", MONDAY,
]  # fmt: skip


class WorldRecord(NamedTuple):
    """A Kafka record of a world."""

    value: bytes | None
    offset: int = 0
    topic: str = "calls"
    partition: int = 0
    timestamp: int = START_MS + 30 * 86_400_000
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


def _fields(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with each field there or not."""
    return st.fixed_dictionaries({}, optional=strategies)


VALUES = st.sampled_from([None, True, "true", "text", "", 7, 1.5, {"a": [1]}, "x@example.com"])
TRAITS = _fields(
    email=st.sampled_from([*EMAILS, None, 3]),
    phone=st.sampled_from([*PHONES, None]),
    name=VALUES, firstName=VALUES, first_name=VALUES, lastName=VALUES, avatar=VALUES,
    plan=VALUES, vip=VALUES,
)  # fmt: skip

USER = st.sampled_from([*USERS, *USERS, "null", None])
VISITOR = st.sampled_from([*VISITORS, *VISITORS, "undefined", None])
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "userId": USER,
    "anonymousId": VISITOR,
    "timestamp": st.sampled_from(TIMES),
    # Few ids, so that calls of all types clash, within a week and across weeks.
    "messageId": st.integers(0, 60).map("m{}".format),
}


def _call(type_: str, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(type_), **COMMON, **more})


PERSONAS = st.fixed_dictionaries({
    "computation_key": st.sampled_from(["vip", "plan", "aud_1"]),
    "computation_class": st.sampled_from(["audience", "trait", "computed_trait", None]),
})  # fmt: skip
CONTEXT = _fields(personas=PERSONAS, traits=TRAITS, groupId=st.sampled_from(GROUPS))

CALLS = st.one_of(
    _call("identify", traits=TRAITS, context=CONTEXT),
    _call("identify", traits=st.just({}), context=CONTEXT),
    _call("identify", traits=VALUES.map(lambda value: {"vip": value}),
          context=PERSONAS.map(lambda personas: {"personas": personas})),
    _call("track", event=st.sampled_from(["Order Completed", "Email Opened", "SMS Sent"]),
          properties=_fields(email=st.sampled_from(EMAILS), phone=st.sampled_from(PHONES))),
    # What came by a contact alone, and a contact's own traits and group.
    _call("track", userId=st.none(), event=st.sampled_from(["Email Opened", "SMS Sent"]),
          properties=st.sampled_from([{"email": email} for email in EMAILS]
                                     + [{"phone": phone} for phone in PHONES])),
    _call("identify", userId=st.none(), anonymousId=st.none(), traits=TRAITS),
    _call("page", name=st.sampled_from(["Home", None])),
    _call("screen", name=st.just("Main")),
    _call("group", groupId=st.sampled_from(GROUPS), traits=TRAITS),
    _call("alias", previousId=st.sampled_from([*USERS, *VISITORS, None, "x1"])),
    # Twice: chains and circles of users are what orders of arrival confuse most.
    *[_call("alias", userId=st.sampled_from(USERS), previousId=st.sampled_from(USERS))] * 2,
)  # fmt: skip

# The size is drawn first: a list that is only bounded has six calls on average, in which few
# aliases meet.
WORLDS = st.integers(1, 40).flatmap(lambda size: st.lists(CALLS, min_size=size, max_size=size))

# Values that hold no call that can be applied: dead letters, and a tombstone.
BROKEN: st.SearchStrategy[bytes | None] = st.sampled_from([
    None, b"", b"{", b"[]", b"7", b"\xff", b"[" * 100, b'{"batch": 1}', b'{"batch": [null]}',
    b'{"type": "identify"}', b'{"type": "identify", "userId": "null"}',
    b'{"type": "identify", "userId": ["u1"]}', b'{"type": "dance", "userId": "u1"}',
    b'{"type": "track", "userId": "u1"}', b'{"type": "group", "userId": "u1"}',
    b'{"type": "alias", "userId": "u1", "previousId": "nil"}',
    b'{"type": "alias", "previousId": "u1"}', b'{"type": "page", "userId": "u\\u00001"}',
    json.dumps({"type": "page", "userId": "u" * 513}).encode(),
])  # fmt: skip


def records_of(calls: Sequence[dict[str, Any]]) -> list[WorldRecord]:
    """One record a call."""
    return [WorldRecord(json.dumps(call).encode(), offset) for offset, call in enumerate(calls)]


T = TypeVar("T")


def deliver(sent: Sequence[T], rng: random.Random, lanes_count: int) -> list[list[list[T]]]:
    """Deliver each at least once and some again, in any order: batches by lane."""
    delivered = [*sent, *rng.sample(sent, rng.randint(0, len(sent)))]
    rng.shuffle(delivered)
    lanes: list[list[list[T]]] = [[] for _ in range(lanes_count)]
    while delivered:
        size = rng.randint(1, 12)
        rng.choice(lanes).append(delivered[:size])
        del delivered[:size]
    return lanes
