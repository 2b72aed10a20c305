"""Mutate what is JSON as JSON, so that the fuzzer gets past the parser."""

import copy
import json
import random
from typing import Any

from tests.core.mutations import GOOD_CALLS, MUTATIONS, at_place, places
from tests.fuzz.seeds import field_names

_VALUES: list[Any] = [
    None, True, False, 0, -1, 5, 1.5, 10**20, 1791158400, 1791158400000, "", " ", "null", "jane",
    "a\x00b", "\u200b", "\U0001f600", "x" * 512, "x" * 513, "a@b", " A@B ", "+16502530000",
    "Email Opened", "SMS Sent", "2026-10-05", "2026-10-05T00:00:00.123456+02:00", "1999-12-31",
    "9999-12-31T23:59:59.999999Z", "identify", "track", "page", "screen", "group", "alias",
    [], {}, [1], {"email": "a@b"}, {"traits": {"email": "a@b"}},
    {"personas": {"computation_key": "a"}}, {"Windsor": False},
]  # fmt: skip
_NAMES = [*field_names(), "a", "", "\x00"]


def mutated(value: bytes, seed: int) -> bytes | None:
    """Mutate a value as JSON; None where it is none, and half of the time."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return None
    try:
        record = json.loads(value)
        for _ in range(rng.randint(1, 3)):
            _mutate(record, rng)
        return json.dumps(record, ensure_ascii=rng.random() < 0.5).encode()
    except (ValueError, RecursionError, TypeError, AttributeError):
        return None


def _mutate(record: Any, rng: random.Random) -> None:  # noqa: ANN401 - any JSON
    """Put something in, or change something that is there."""
    new = copy.deepcopy(rng.choice([*_VALUES, *GOOD_CALLS]))
    if isinstance(record, dict) and rng.random() < 0.4:
        record[rng.choice(_NAMES)] = new
        return
    found = places(record)
    if not found:
        return
    *above, step = rng.choice(found)
    rng.choice(MUTATIONS)(at_place(record, above), step, new)
