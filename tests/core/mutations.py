"""Structured mutations of good calls: parts dropped, retyped, doubled, renamed, nested, damaged."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Fields = dict[str, Any]

ODD_TEXTS = st.sampled_from(
    ["", " ", "null", "0", "jane", "\x00", "a\x00", "\u200b", "\U0001f600", "x" * 513, "a@b",
     "1e9999", "\\u0000", "\\", '"', "+16502530000", "2026-10-05", "9999-12-31T23:59:59.999999Z"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ODD_TEXTS
    | st.text(max_size=8)
)
KEYS = st.sampled_from(["email", "phone", "traits", "personas", "computation_key", "Windsor", "a"])
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | ODD_TEXTS, inner, max_size=3)
    ),
    max_leaves=8,
)

GOOD_CALLS: list[Fields] = [
    {
        "type": "track", "event": "Email Opened", "userId": "jane", "anonymousId": "phone",
        "messageId": "m", "timestamp": "2026-10-05T00:00:00Z", "properties": {"email": "a@b"},
        "context": {"traits": {"phone": "+16502530000"}}, "integrations": {"All": True},
    },
    {
        "type": "identify", "userId": "jane", "messageId": "m", "receivedAt": 1791158400000,
        "sentAt": "2026-10-05T00:00:00Z", "originalTimestamp": 1791158400,
        "traits": {"email": "a@b", "vip": True, "nested": {"a": [1, {"b": None}]}},
        "context": {"personas": {"computation_class": "audience", "computation_key": "vip"}},
    },
    {"action": "Page", "user_id": "jane", "name": "Home", "properties": []},
    {"type": "group", "anonymousId": "phone", "groupId": 5, "traits": {"seats": 5}},
    {"type": "alias", "userId": "jane", "previousId": "old", "anonymousId": "phone"},
]  # fmt: skip
ENVELOPES: list[Callable[[Fields], Fields]] = [
    lambda call: call,
    lambda call: {"httpPayload": call},
    lambda call: {
        "batch": [GOOD_CALLS[0], call, GOOD_CALLS[1]],
        "context": {"ip": "::1", "traits": {"email": "a@b"}},
        "integrations": {"Windsor": True}, "sentAt": "2026-10-05T00:00:00Z",
    },
]  # fmt: skip


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything within a value."""
    if isinstance(value, dict):
        steps = [(key, value[key]) for key in value]
    elif isinstance(value, list):
        steps = list(enumerate(value))
    else:
        return []
    found = []
    for step, inner in steps:
        found.append((*path, step))
        found.extend(places(inner, (*path, step)))
    return found


def at_place(record: Fields, path: Sequence[Any]) -> Any:  # noqa: ANN401 - any JSON
    """What is at a path of a record."""
    found: Any = record
    for step in path:
        found = found[step]
    return found


def drop(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    del parent[step]


def retype(parent: Any, step: Any, value: object) -> None:  # noqa: ANN401 - any JSON
    parent[step] = value


def double(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    """Say an element twice, or a field under another's name too."""
    if isinstance(parent, list):
        parent.insert(step, copy.deepcopy(parent[step]))
    else:
        for name in ("batch", "httpPayload", "userId", "traits", step.swapcase()):
            parent.setdefault(name, copy.deepcopy(parent[step]))


def rename(parent: Any, step: Any, value: object) -> None:  # noqa: ANN401 - any JSON
    if isinstance(parent, dict) and isinstance(value, str):
        parent[value] = parent.pop(step)


def nest(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    parent[step] = [{"a": parent[step]}]


def deepen(parent: Any, step: Any, _value: object) -> None:  # noqa: ANN401 - any JSON
    for _ in range(62):
        parent[step] = [parent[step]]


MUTATIONS = [drop, retype, double, rename, nest, deepen]
BEYOND_PYTHON = [b"1e999", b"-1e999", b"9" * 4_301, b"1e-9999", b"[1e999999]", b'{"a":1e131072}']
INSERTIONS = st.sampled_from(
    [b'"', b"\\", b"{", b"[", b"}", b"]", b",", b":", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\u0000",
     b"\\ud83d", b"NaN", b"1e999", b"9" * 4_301, b"\n", b"-", b"0", b"null", b"\xef\xbb\xbf"]
) | st.binary(min_size=1, max_size=3)  # fmt: skip
# With all escapes and blanks, and with none.
SPELLINGS: list[Fields] = [{}, {"ensure_ascii": False, "separators": (",", ":")}]


@st.composite
def mutated_values(draw: st.DrawFn, originals: Sequence[Fields] = GOOD_CALLS) -> bytes:
    """Good records of which a few things were changed, as bytes; half of them still parse.

    Args:
        draw: Hypothesis' own.
        originals: Calls, or records that are envelopes already.
    """
    record: Fields = copy.deepcopy(draw(st.sampled_from(originals)))
    if "batch" not in record:
        record = copy.deepcopy(draw(st.sampled_from(ENVELOPES))(record))
    for _ in range(draw(st.integers(0, 3))):
        if paths := places(record):
            *above, step = draw(st.sampled_from(paths))
            mutate = draw(st.sampled_from(MUTATIONS))
            mutate(at_place(record, above), step, draw(JSON_VALUES))
    number = draw(st.none() | st.sampled_from(BEYOND_PYTHON))
    if number is not None and (paths := places(record)):
        *above, step = draw(st.sampled_from(paths))
        at_place(record, above)[step] = "<number>"
    value = json.dumps(record, **draw(st.sampled_from(SPELLINGS))).encode()
    value = value.replace(b'"<number>"', number or b"0")
    return draw(damaged(value)) if draw(st.booleans()) else value


@st.composite
def damaged(draw: st.DrawFn, value: bytes) -> bytes:
    """Bytes cut, inserted, replaced or removed, blind to what they mean."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        damage = draw(st.sampled_from(["truncate", "insert", "replace", "remove"]))
        if damage == "truncate":
            value = value[:at]
        else:
            inserted = b"" if damage == "remove" else draw(INSERTIONS)
            removed = 0 if damage == "insert" else len(inserted) or 1
            value = value[:at] + inserted + value[at + removed :]
    return value
