"""The calls that the bench is made of: seeded, so that one name means the same bytes anywhere.

The realistic mix has some 700 bytes a call and a skewed crowd of users: 60 % track, 25 % page,
12 % identify, 2 % group, 1 % alias. The others are what hurts such a worker most.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

START: Final = datetime(2026, 10, 5, tzinfo=UTC)
USERS: Final = 50_000
QUARTER: Final = timedelta(days=91)
# Its end is not after the others' start: a broker takes no records of the future.
_QUARTER_START: Final = START - QUARTER
# With so many calls in the quarter there are as many users as in the realistic mix a call.
_CALLS_A_USER: Final = 20
_STEP: Final = timedelta(milliseconds=3)

_CONTEXT = {
    "library": {"name": "analytics.js", "version": "next-1.81.0"},
    "page": {"path": "/boards/7", "referrer": "https://example.com/", "title": "Boards"},
    "userAgent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36",
    "ip": "203.0.113.9",
    "locale": "en-US",
}
_EVENTS = ["Board Created", "Card Moved", "Order Completed", "Report Exported", "Comment Added"]
_AUDIENCE = {
    "personas": {
        "computation_class": "audience",
        "computation_id": "aud_2aBcDeFgHiJkLmNoPqRsTuVwXyZ",
        "computation_key": "power_users",
        "namespace": "spa_2aBcDeFgHiJkLmNoPqRsTuVwXyZ",
        "space_id": "spa_2aBcDeFgHiJkLmNoPqRsTuVwXyZ",
    }
}

_encode = msgspec.json.Encoder().encode


class Record(NamedTuple):
    """What a Kafka record is made of."""

    key: bytes
    value: bytes
    timestamp_ms: int


def calls(
    count: int,
    seed: int = 1,
    *,
    start: datetime = START,
    step: timedelta = _STEP,
    user_of: Callable[[random.Random], int] | None = None,
) -> Iterator[Record]:
    """Give the realistic mix, in the order of time.

    Args:
        count: Of calls.
        seed: Another gives other message ids, and other users in the same shares.
        start: Timestamp of the first call.
        step: From one call to the next.
        user_of: Draws whose a call is; by default a few of `USERS` make most of them.
    """
    rng = random.Random(seed)
    user_of = user_of or _few_of(USERS)
    for number in range(count):
        at = start + number * step
        user = user_of(rng)
        yield Record(
            f"user-{user}".encode(), _encode(_call(rng, number, user, at)), _milliseconds(at)
        )


def uniform(count: int) -> Iterator[Record]:
    """Give the mix with all users alike."""
    return calls(count, seed=2, user_of=_any_of(USERS))


def hot_user(count: int) -> Iterator[Record]:
    """Give the mix with nine of ten calls from one user, the others from all alike."""
    others = _any_of(USERS)
    return calls(count, seed=3, user_of=lambda rng: 0 if rng.random() < 0.9 else others(rng))


def quarter(count: int) -> Iterator[Record]:
    """Give the mix spread over three months, with users in proportion."""
    users = max(1, count // _CALLS_A_USER)
    return calls(count, seed=4, start=_QUARTER_START, step=QUARTER / count, user_of=_few_of(users))


def customers(count: int) -> Iterator[Record]:
    """Give an identify for each of so many users."""
    rng = random.Random(5)
    for number in range(count):
        at = START + number * _STEP
        traits = {"email": f"user-{number}@example.com", "firstName": "Jane", "plan": "pro"}
        call = {**_head(rng, number, number, at), "type": "identify", "traits": traits}
        yield Record(f"user-{number}".encode(), _encode(call), _milliseconds(at))


def audience(count: int) -> Iterator[Record]:
    """Give the first sync of an audience with all `customers`: one trait each, a day later."""
    rng = random.Random(6)
    for number in range(count):
        at = START + timedelta(days=1) + number * _STEP
        when = _text(at)
        call = {
            "messageId": f"personas_{number:010}{rng.getrandbits(64):016x}",
            "userId": f"user-{number}",
            "type": "identify",
            "timestamp": when,
            "originalTimestamp": when,
            "sentAt": when,
            "receivedAt": when,
            "traits": {"power_users": True},
            "context": _AUDIENCE,
            # The sync is for the destinations that it names, which calls this of all others.
            "integrations": {"All": False},
        }
        yield Record(f"user-{number}".encode(), _encode(call), _milliseconds(at))


def alias_chain(count: int) -> Iterator[Record]:
    """Give so many aliases that make one user, each into the next."""
    return _aliases((number, number + 1) for number in range(count))


def alias_star(count: int) -> Iterator[Record]:
    """Give so many aliases that make one user, all into the first."""
    return _aliases((number, 0) for number in range(1, count + 1))


def alias_chain_shuffled(count: int) -> Iterator[Record]:
    """Give the chain out of order: most calls are late."""
    return _shuffled(alias_chain(count))


def alias_star_shuffled(count: int) -> Iterator[Record]:
    """Give the star out of order."""
    return _shuffled(alias_star(count))


def probe(user: int, number: int, timestamp_ms: int) -> Record:
    """Give a call that can be seen to arrive: it sets the trait `probe` of its user."""
    when = _text(datetime.fromtimestamp(timestamp_ms / 1000, UTC))
    call = {
        "messageId": f"probe-{number:010}",
        "userId": probe_user(user),
        "type": "identify",
        "timestamp": when,
        "context": _CONTEXT,
        "traits": {"probe": number},
    }
    return Record(probe_user(user).encode(), _encode(call), timestamp_ms)


def probe_user(user: int) -> str:
    """Name the user of a probe."""
    return f"probe-{user}"


def _few_of(users: int) -> Callable[[random.Random], int]:
    # A power law: a few users make most of the calls.
    return lambda rng: int(users * rng.random() ** 2.5)


def _any_of(users: int) -> Callable[[random.Random], int]:
    return lambda rng: rng.randrange(users)


def _text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _head(rng: random.Random, number: int, user: int, at: datetime) -> dict[str, object]:
    when = _text(at)
    return {
        "messageId": f"ajs-next-{number:010}-{rng.getrandbits(64):016x}",
        "userId": f"user-{user}",
        "anonymousId": f"{user:08x}-0000-4000-8000-{user:012x}",
        "timestamp": when,
        "originalTimestamp": when,
        "sentAt": when,
        "receivedAt": when,
        "context": _CONTEXT,
        "integrations": {},
    }


def _call(rng: random.Random, number: int, user: int, at: datetime) -> dict[str, object]:
    draw = rng.random()
    call = _head(rng, number, user, at)
    if draw < 0.60:
        properties = {"board_id": rng.randrange(9999), "plan": "pro", "total": rng.random() * 99}
        return {**call, "type": "track", "event": rng.choice(_EVENTS), "properties": properties}
    if draw < 0.85:
        return {**call, "type": "page", "name": "Boards", "properties": {"path": "/boards/7"}}
    if draw < 0.97:
        traits = {
            "email": f"user-{user}@example.com",
            "firstName": "Jane",
            "plan": rng.choice(["trial", "pro"]),
            "logins": rng.randrange(99),
            "company": {"name": f"Company {user % 500}"},
        }
        return {**call, "type": "identify", "traits": traits}
    if draw < 0.99:
        group = {"groupId": f"company-{user % 500}", "traits": {"name": f"Company {user % 500}"}}
        return {**call, "type": "group", **group}
    return {**call, "type": "alias", "previousId": f"old-{user}"}


def _aliases(pairs: Iterable[tuple[int, int]]) -> Iterator[Record]:
    rng = random.Random(7)
    for number, (previous, user) in enumerate(pairs):
        at = START + number * _STEP
        call = {
            "messageId": f"alias-{number:010}-{rng.getrandbits(64):016x}",
            "type": "alias",
            "previousId": f"member-{previous}",
            "userId": f"member-{user}",
            "timestamp": _text(at),
            "context": _CONTEXT,
        }
        yield Record(f"member-{user}".encode(), _encode(call), _milliseconds(at))


def _shuffled(records: Iterable[Record]) -> Iterator[Record]:
    shuffled = list(records)
    random.Random(8).shuffle(shuffled)
    return iter(shuffled)
