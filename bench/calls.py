"""Realistic calls for the bench: some 700 bytes, a skewed crowd of users.

60 % track, 25 % page, 12 % identify, 2 % group, 1 % alias.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

START = datetime(2026, 10, 5, tzinfo=UTC)
USERS = 50_000

_CONTEXT = {
    "library": {"name": "analytics.js", "version": "next-1.81.0"},
    "page": {"path": "/boards/7", "referrer": "https://example.com/", "title": "Boards"},
    "userAgent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36",
    "ip": "203.0.113.9",
    "locale": "en-US",
}
_EVENTS = ["Board Created", "Card Moved", "Order Completed", "Report Exported", "Comment Added"]


def calls(count: int, seed: int = 1) -> Iterator[tuple[bytes, bytes, int]]:
    """Give key, value and timestamp (milliseconds) of each record, in the order of time."""
    rng = random.Random(seed)
    for number in range(count):
        at = START + timedelta(milliseconds=number * 3)
        # A power law: a few users make most of the calls.
        user = int(USERS * rng.random() ** 2.5)
        value = json.dumps(_call(rng, number, user, at), separators=(",", ":")).encode()
        yield f"user-{user}".encode(), value, int(at.timestamp() * 1000)


def _call(rng: random.Random, number: int, user: int, at: datetime) -> dict[str, object]:
    when = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    draw = rng.random()
    call: dict[str, object] = {
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
